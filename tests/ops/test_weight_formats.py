"""Integer formats of weights: their bytes, and how near they come to what was packed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal, assert_close
from op_tensors import misaligned, poisoned, randn
from phi3svc import ops
from weight_formats import (
    INT4_FORMATS,
    INTEGER_FORMATS,
    group_size,
    panel_bytes,
    round_up,
    unpacked,
    weights_of,
)

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.cpu_only]

# Root mean square error on normally distributed weights, relative to theirs; of csrc's choice of
# steps, measured over 64 rows of 4096.
GAUSSIAN_ERRORS = {
    "int8": 0.0087,
    "int4-g32": 0.0886,
    "int4-g32-min": 0.0795,
    "int4-g128": 0.102,
    "int4-g128-min": 0.0957,
}


@pytest.fixture(params=INTEGER_FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=INT4_FORMATS)
def int4(request: pytest.FixtureRequest) -> str:
    return request.param


def relative_error(weight: Tensor, stored: Tensor) -> float:
    weight = weight.double()
    return math.sqrt((stored.double() - weight).square().sum() / weight.square().sum())


def check(weight: Tensor, format: str) -> ops.PackedLinear:
    """Packs into poisoned memory: padding is zero, and unpacking says what the bytes say."""
    num_rows, width = weight.shape
    shape = (math.ceil(num_rows / 16), panel_bytes(format, width))
    assert ops.packed_shape(num_rows, width, format) == (shape, torch.uint8)
    data = torch.full(shape, 0x7B, dtype=torch.uint8)
    row_errors = poisoned(num_rows, dtype=torch.float32)
    packed = ops.pack_linear(weight, format, data, row_errors)
    assert packed.data is data
    assert (packed.out_features, packed.in_features, packed.format) == (num_rows, width, format)
    assert packed.is_integer
    assert_bitwise_equal(ops.pack_linear(weight, format).data, data)

    scales, values, multipliers, zeros = unpacked(data, format, width)
    assert values.shape[1] == round_up(width, 32 if format == "int8" else 128)
    assert (values[:, width:] == 0).all()
    assert (values[num_rows:] == 0).all()
    assert (scales[num_rows:] == 0).all()
    assert values.min() >= (-127 if format == "int8" else -128)
    assert values.max() <= 127
    if format != "int8":
        assert multipliers.min() >= 1
        assert format.endswith("-min") or (zeros == 8).all()

    stored = weights_of(packed)
    assert_bitwise_equal(ops.unpack_linear(packed), stored)
    difference = (stored.double() - weight.double()).square().mean(-1).sqrt()
    mean = weight.double().abs().mean(-1)
    expected = torch.where(mean > 0, difference / mean, 0.0)
    # The difference of two sums of squares shows no error below the root of their rounding.
    assert_close(row_errors, expected, atol=3e-3 if format != "int8" else 1e-5, rtol=1e-3)
    return packed


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("width", [1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 600])
def test_bytes_of_any_size(num_rows: int, width: int, format: str) -> None:
    check(randn(num_rows, width), format)


def test_bfloat16_weights_pack_as_the_same_float32(format: str) -> None:
    weight = randn(20, 300, dtype=torch.bfloat16)
    assert_bitwise_equal(check(weight, format).data, ops.pack_linear(weight.float(), format).data)


def test_rows_may_be_strided(format: str, dtype: torch.dtype) -> None:
    weight = randn(20, 300, dtype=dtype)
    expected = ops.pack_linear(weight, format).data
    assert_bitwise_equal(check(misaligned(weight), format).data, expected)


@pytest.mark.parametrize("mlp_width", [1, 15, 16, 17, 40])
def test_gate_up_alternates_panels_padded_by_themselves(mlp_width: int, format: str) -> None:
    weight, width = randn(2 * mlp_width, 150), 150
    row_errors, expected_errors = torch.empty(2 * mlp_width), torch.empty(2 * mlp_width)
    packed = ops.pack_gate_up(weight, format, row_errors=row_errors)
    gate, up = (ops.pack_linear(half, format).data for half in weight.chunk(2))
    assert_bitwise_equal(packed.data, torch.stack([gate, up], dim=1).flatten(0, 1))
    assert tuple(packed.data.shape) == (2 * math.ceil(mlp_width / 16), panel_bytes(format, width))
    whole = ops.pack_linear(weight, format, row_errors=expected_errors)
    assert_bitwise_equal(ops.unpack_gate_up(packed), ops.unpack_linear(whole))
    assert_bitwise_equal(row_errors, expected_errors)


def test_a_row_does_not_depend_on_its_panel_or_on_threads(format: str) -> None:
    weight = randn(16 * 21 + 5, 200)
    whole = ops.unpack_linear(ops.pack_linear(weight, format))
    for row in (0, 7, 16, 340):
        alone = ops.pack_linear(weight[row : row + 1], format)
        assert_bitwise_equal(ops.unpack_linear(alone), whole[row : row + 1])
    ops.set_num_threads(3)
    packed = ops.pack_linear(weight, format)
    assert_bitwise_equal(ops.unpack_linear(packed), whole)


def test_int8_is_its_definition_to_the_bit() -> None:
    weight = randn(37, 300)
    weight[3], weight[4, 5] = 0, 100.0
    scales, values, *_ = unpacked(check(weight, "int8").data, "int8", 300)
    expected = weight.abs().amax(-1) / 127
    assert_bitwise_equal(scales[:37], expected)
    numbers = torch.where(expected[:, None] > 0, weight / expected[:, None], 0.0).round()
    assert_bitwise_equal(values[:37, :300], numbers.int())


def test_int8_rounds_ties_to_even() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, -2.5, -3.5, 125.5]])
    _, values, *_ = unpacked(ops.pack_linear(weight, "int8").data, "int8", 6)
    assert values[0, :6].tolist() == [127, 0, 2, -2, -4, 126]


def plain_int4(weight: Tensor, format: str) -> Tensor:
    """float64 [n, k], k a multiple of the group: every group with the step that just covers it."""
    groups = weight.double().unflatten(-1, (-1, group_size(format)))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if format.endswith("-min"):
        wanted = (high - low) / 15
        scale = torch.maximum(wanted.amax(-1) / 15, weight.double().abs().amax(-1) / 127)
    else:
        wanted = torch.maximum(high, -low) / 7
        scale = wanted.amax(-1) / 15
    step = (wanted / scale[:, None]).round().clamp(1, 15) * scale[:, None]
    zero = (-low / step).round().clamp(0, 15) if format.endswith("-min") else torch.tensor(8.0)
    zero = zero.expand(step.shape)[..., None]
    numbers = ((groups / step[..., None]).round() + zero).clamp(0, 15)
    return ((numbers - zero) * step[..., None]).flatten(1)


DISTRIBUTIONS: dict[str, Callable[[], Tensor]] = {
    "normal": lambda: randn(16, 1024),
    "uniform": lambda: 2 * torch.rand(16, 1024) - 1,
    "heavy tails": lambda: randn(16, 1024) * (1 + randn(16, 1024).square()),
    "groups of all magnitudes": lambda: (
        randn(16, 1024) * torch.exp(randn(16, 32)).repeat_interleave(32, -1)
    ),
    "off centre": lambda: randn(16, 1024) + 1.5,
    "positive": lambda: torch.rand(16, 1024) + 0.01,
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_int4_is_nearer_than_the_step_that_just_covers_a_group(
    distribution: str, int4: str
) -> None:
    weight = DISTRIBUTIONS[distribution]()
    stored = ops.unpack_linear(ops.pack_linear(weight, int4))
    assert relative_error(weight, stored) < relative_error(weight, plain_int4(weight, int4))


def test_the_scale_of_an_int4_row_is_the_best_for_its_numbers(int4: str) -> None:
    weight = randn(16, 700)
    scales, values, *_ = unpacked(ops.pack_linear(weight, int4).data, int4, 700)
    values = values[:, :700].double()
    best = (weight * values).sum(-1) / values.square().sum(-1)
    assert_close(scales, best, rtol=1e-5)


def test_the_error_on_normal_weights_is_the_one_documented(format: str) -> None:
    weight = randn(64, 4096)
    row_errors = torch.empty(64)
    stored = ops.unpack_linear(ops.pack_linear(weight, format, row_errors=row_errors))
    error = relative_error(weight, stored)
    assert error == pytest.approx(GAUSSIAN_ERRORS[format], rel=0.05)
    # Over the mean magnitude, which is √(2/π) of the root mean square.
    assert row_errors.mean().item() == pytest.approx(error / math.sqrt(2 / math.pi), rel=0.02)


def test_zeros_stay_zeros_and_equal_weights_stay_equal(format: str) -> None:
    weight = torch.zeros(18, 300)
    weight[1], weight[2], weight[3, 7], weight[17] = 0.75, -0.75, 3.0, 1e-3
    stored = ops.unpack_linear(check(weight, format))
    assert (stored[weight == 0] == 0).all()
    assert_close(stored, weight, rtol=1e-5)


def test_what_is_not_finite_spoils_its_row_alone(format: str) -> None:
    weight = randn(18, 300)
    expected = ops.unpack_linear(ops.pack_linear(weight, format))
    spoilt = {2: math.nan, 5: math.inf, 16: -math.inf}
    for row, value in spoilt.items():
        weight[row, 299] = value
    weight[9] = math.nan
    row_errors = torch.zeros(18)
    stored = ops.unpack_linear(ops.pack_linear(weight, format, row_errors=row_errors))
    bad = torch.tensor([*spoilt, 9])
    good = torch.tensor([row for row in range(18) if row not in bad])
    assert stored[bad].isnan().all()
    assert not row_errors[bad].isfinite().any()
    assert_bitwise_equal(stored[good], expected[good])


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-60, 2.0**60, 2.0**124])
def test_magnitudes_do_not_matter(scale: float, format: str) -> None:
    """A power of two changes scales alone: no square or sum leaves the range of float32."""
    weight = randn(16, 300)
    row_errors, expected_errors = torch.empty(16), torch.empty(16)
    expected = ops.unpack_linear(ops.pack_linear(weight, format, row_errors=expected_errors))
    scaled = ops.pack_linear(weight * scale, format, row_errors=row_errors)
    assert_bitwise_equal(ops.unpack_linear(scaled) / scale, expected)
    assert_bitwise_equal(row_errors, expected_errors)


def test_subnormal_weights_are_as_near_as_float32_has_numbers(format: str) -> None:
    weight = randn(16, 64) * 1e-41
    stored = ops.unpack_linear(ops.pack_linear(weight, format))
    # A scale is a multiple of 2^-149, and meets numbers of up to 127.
    error = 0.004 if format == "int8" else 0.15
    assert_close(stored, weight, atol=150 * 2.0**-149 + error * weight.abs().max().item())
