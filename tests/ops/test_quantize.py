"""`quantize`, and norms that write quantized rows, against their definition bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from op_tensors import NUM_ROWS, misaligned, randn
from phi3svc import ops
from weight_formats import quantize, quantized_rows, rows_for

pytestmark = [pytest.mark.usefixtures("isa"), pytest.mark.cpu_only]

EPS = 1e-5
WIDTHS = [1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 255, 257, 3072]


def check(x: Tensor) -> None:
    rows = rows_for(*x.shape)
    ops.quantize(x, rows.out)
    assert_rows(rows.checked(), x)


def assert_rows(rows: Tensor, x: Tensor) -> None:
    """`rows` are `x` quantized, to the bit."""
    found, expected = quantized_rows(rows), quantize(x)
    assert_bitwise_equal(found.scales, expected.scales)
    assert_bitwise_equal(found.sums, expected.sums)
    assert_bitwise_equal(found.values, expected.values)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_quantize_of_any_number_of_rows(num_rows: int, dtype: torch.dtype) -> None:
    check(randn(num_rows, 80, dtype=dtype))


@pytest.mark.parametrize("width", WIDTHS)
def test_quantize_of_any_width(width: int, dtype: torch.dtype) -> None:
    check(randn(5, width, dtype=dtype))
    assert ops.quantized_row_bytes(width) == 64 + -(-width // 128) * 128


def test_quantize_reads_strided_rows(dtype: torch.dtype) -> None:
    check(misaligned(randn(5, 83, dtype=dtype)))


def test_quantize_rounds_ties_to_even(dtype: torch.dtype) -> None:
    ties = torch.arange(-127.0, 127.0) + 0.5  # exact in bfloat16 up to 64
    check(torch.cat([torch.tensor([127.0]), ties[ties.abs() <= 64]])[None].to(dtype))
    rows = rows_for(1, 5)
    ops.quantize(torch.tensor([[127.0, 0.5, 1.5, -2.5, -3.5]], dtype=dtype), rows.out)
    assert quantized_rows(rows.checked()).values[0, :5].tolist() == [127, 0, 2, -2, -4]


@pytest.mark.parametrize("scale", [1e-45, 1e-41, 1e-38, 1e-30, 1e30, 1e38])
def test_quantize_of_any_magnitude(scale: float, dtype: torch.dtype) -> None:
    x = (scale * torch.linspace(-3, 3, 50)).to(dtype).repeat(2, 1)
    x[1] *= 0.3
    check(x)


def test_quantize_leaves_zeros_and_what_is_not_finite_to_their_rows(dtype: torch.dtype) -> None:
    x = randn(9, 35, dtype=dtype)
    x[1], x[2] = 0, -0.0
    x[3, 34], x[4, 0], x[5, 17], x[6] = math.nan, math.inf, -math.inf, math.nan
    check(x)
    rows = rows_for(*x.shape)
    ops.quantize(x, rows.out)
    assert (
        quantized_rows(rows.checked()).scales.isnan().tolist()
        == [False] * 3 + [True] * 4 + [False] * 2
    )


Norm = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def rms_norm(h: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    ops.rms_norm(h, weight, EPS, out)


def layer_norm(h: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    ops.layer_norm(h, weight, bias, EPS, out)


@pytest.fixture(params=[rms_norm, layer_norm], ids=lambda norm: norm.__name__)
def norm(request: pytest.FixtureRequest) -> Norm:
    return request.param


def check_norm(norm: Norm, h: Tensor, dtype: torch.dtype) -> None:
    """A norm into quantized rows is the norm in float32, quantized: nothing is rounded between."""
    weight, bias = randn(h.shape[1], dtype=dtype), randn(h.shape[1], dtype=dtype)
    normed = torch.empty(h.shape)
    norm(h, weight.float(), bias.float(), normed)
    rows = rows_for(*h.shape)
    norm(h, weight, bias, rows.out)
    assert_rows(rows.checked(), normed)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_norm_quantizes_any_number_of_rows(norm: Norm, num_rows: int, dtype: torch.dtype) -> None:
    check_norm(norm, randn(num_rows, 80), dtype)


@pytest.mark.parametrize("width", WIDTHS)
def test_norm_quantizes_any_width(norm: Norm, width: int, dtype: torch.dtype) -> None:
    check_norm(norm, randn(5, width), dtype)


def test_norm_quantizes_strided_rows_zeros_and_what_is_not_finite(
    norm: Norm, dtype: torch.dtype
) -> None:
    h = misaligned(randn(6, 83))
    h[1], h[2, 82], h[4, 0] = 0, math.nan, math.inf
    check_norm(norm, h, dtype)
