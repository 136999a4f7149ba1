"""`linear` against float64 and, on small integers, against exact arithmetic."""

from __future__ import annotations

import pytest
import torch

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, dot_bound, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")


def integers(*shape: int, dtype: torch.dtype, limit: int = 8) -> torch.Tensor:
    return torch.randint(-limit, limit + 1, shape).to(dtype)


def product_of(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Of integers, int64; in float64, since torch on CUDA multiplies no matrices of integers."""
    return (x.double() @ weight.double().T).long()


@pytest.fixture(
    params=[
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
    ids=["f32-f32", "bf16-bf16", "bf16-f32"],
)
def dtypes(request: pytest.FixtureRequest) -> tuple[torch.dtype, torch.dtype]:
    """Of the operands and of the output."""
    return request.param


def check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> None:
    buffer = Guarded(len(x), len(weight), dtype=out_dtype)
    ops.linear(x, ops.pack_linear(weight), buffer.out, bias)
    wide_bias = None if bias is None else bias.double()
    exact = reference.linear(x.double(), weight.double(), wide_bias)
    bound = dot_bound(x, weight) + (0 if bias is None else 2.0**-23 * bias.double().abs())
    assert_close(buffer.checked(), exact, bound + rounding(exact, out_dtype))


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_linear_of_any_number_of_rows(
    num_rows: int, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    dtype, out_dtype = dtypes
    check(randn(num_rows, 80, dtype=dtype), randn(72, 80, dtype=dtype), None, out_dtype)


@pytest.mark.parametrize("out_features", [1, 3, 15, 16, 17, 31, 33, 48, 63, 64, 65, 129])
@pytest.mark.parametrize("num_rows", [1, 5, 16])
def test_linear_of_any_number_of_features(
    out_features: int, num_rows: int, dtype: torch.dtype
) -> None:
    bias = randn(out_features, dtype=dtype)
    check(randn(num_rows, 64, dtype=dtype), randn(out_features, 64, dtype=dtype), bias, dtype)


@pytest.mark.parametrize("width", [1, 2, 3, 15, 16, 17, 31, 33, 127, 128, 129, 1024])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_linear_of_any_width(
    width: int, num_rows: int, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    dtype, out_dtype = dtypes
    check(randn(num_rows, width, dtype=dtype), randn(35, width, dtype=dtype), None, out_dtype)


@pytest.mark.parametrize("num_rows", [1, 4, 17])
def test_linear_reads_strided_rows_and_nothing_between_them(
    num_rows: int, dtype: torch.dtype
) -> None:
    for width in (16, 33):
        check(misaligned(randn(num_rows, width, dtype=dtype)), randn(20, width, dtype=dtype))


@pytest.mark.parametrize("num_rows", [n for n in NUM_ROWS if n] + [70])
@pytest.mark.parametrize(("out_features", "width"), [(17, 31), (200, 300)])
def test_linear_is_exact_on_small_integers(
    num_rows: int, out_features: int, width: int, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    dtype, out_dtype = dtypes
    x = integers(num_rows, width, dtype=dtype)
    weight = integers(out_features, width, dtype=dtype)
    bias = integers(out_features, dtype=dtype)
    buffer = Guarded(num_rows, out_features, dtype=out_dtype)
    ops.linear(x, ops.pack_linear(weight), buffer.out, bias)
    exact = product_of(x, weight) + bias.long()
    # + 0.0 turns a -0 into the 0 that an integer has.
    assert_bitwise_equal(buffer.checked() + 0.0, exact.float().to(out_dtype))


@pytest.mark.parametrize("num_rows", [n for n in NUM_ROWS if n])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_accumulates_exactly_on_small_integers(
    num_rows: int, with_bias: bool, dtype: torch.dtype
) -> None:
    x, weight = integers(num_rows, 65, dtype=dtype), integers(50, 65, dtype=dtype)
    bias = integers(50, dtype=dtype) if with_bias else None
    residual = integers(num_rows, 50, dtype=torch.float32, limit=1000)
    buffer = Guarded(num_rows, 50, dtype=torch.float32)
    buffer.out.copy_(residual)
    ops.linear(x, ops.pack_linear(weight), buffer.out, bias, accumulate=True)
    exact = residual.long() + product_of(x, weight) + (0 if bias is None else bias.long())
    assert_bitwise_equal(buffer.checked() + 0.0, exact.float())


def test_linear_accumulates_as_the_rounded_sum_of_both(dtype: torch.dtype) -> None:
    """The residual is added to the finished dot product: its size must not disturb the sum."""
    x, weight = randn(3, 64, dtype=dtype), ops.pack_linear(randn(40, 64, dtype=dtype))
    product = torch.empty(3, 40)
    ops.linear(x, weight, product)
    residual = 1e4 * randn(3, 40)
    h = residual.clone()
    ops.linear(x, weight, h, accumulate=True)
    assert_bitwise_equal(h, residual + product)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ((1, 2**-8), 1.0),  # halfway, down to even
        ((1, 3 * 2**-8), 1 + 2**-6),  # halfway, up to even
        ((1, 2**-8 + 2**-15), 1 + 2**-7),  # a little more than halfway
        ((-1, -(2**-8)), -1.0),
        ((2.0**127 * 1.9921875, 2.0**119), torch.inf),  # halfway past the largest
    ],
)
def test_linear_rounds_bf16_to_nearest_even(terms: tuple[float, float], expected: float) -> None:
    x = torch.tensor([terms], dtype=torch.bfloat16)
    assert x.double().tolist() == [list(terms)]
    out = torch.empty(1, 1, dtype=torch.bfloat16)
    ops.linear(x, ops.pack_linear(torch.ones(1, 2, dtype=torch.bfloat16)), out)
    assert_bitwise_equal(out, torch.tensor([[expected]], dtype=torch.bfloat16))


@pytest.mark.cpu_only
def test_linear_keeps_subnormal_bf16_except_in_vdpbf16ps(gemm_isa: str) -> None:
    x = torch.tensor([[2.0**-130, 2.0**-133]], dtype=torch.bfloat16)
    out = torch.empty(1, 1, dtype=torch.bfloat16)
    ops.linear(x, ops.pack_linear(torch.ones(1, 2, dtype=torch.bfloat16)), out)
    assert out.item() == (0 if gemm_isa == "avx512_bf16" else x.double().sum().item())


@pytest.mark.cpu_only
@pytest.mark.parametrize("width", [7, 100, 2500])
def test_linear_is_one_chain_of_multiply_adds_in_index_order(
    width: int, dtype: torch.dtype
) -> None:
    """The order that makes a row's bits independent of its batch, term by term.

    Of a pair of bfloat16 terms the second comes first, as in VDPBF16PS.
    """
    x, weight = randn(8, width, dtype=dtype), randn(33, width, dtype=dtype)
    terms = torch.arange(width)
    if dtype == torch.bfloat16:
        pairs = terms[: width // 2 * 2].view(-1, 2).flip(-1).flatten()
        terms = torch.cat([pairs, terms[len(pairs) :]])
    chain = torch.zeros(8, 33)
    for k in terms:
        product = x[:, k, None].double() * weight[:, k].double()  # exact in float64
        chain = (chain.double() + product).float()
    out = torch.empty(8, 33)
    ops.linear(x, ops.pack_linear(weight), out)
    assert_bitwise_equal(out, chain)


def test_linear_keeps_nan_and_inf_in_their_row(dtype: torch.dtype) -> None:
    x, weight = randn(9, 48, dtype=dtype), randn(33, 48, dtype=dtype)
    x[2, 5], x[7, 40] = torch.nan, torch.inf
    out = torch.zeros(9, 33, dtype=dtype)
    ops.linear(x, ops.pack_linear(weight), out)
    assert out[2].isnan().all()
    assert out[7].isinf().all()
    others = [0, 1, 3, 4, 5, 6, 8]
    exact = reference.linear(x[others].double(), weight.double())
    bound = dot_bound(x[others], weight) + rounding(exact, dtype)
    assert_close(out[others], exact, bound)
