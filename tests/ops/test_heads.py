"""`lm_head` and `classify_head`: gather, norm, project."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_accurate, assert_bitwise_equal, assert_close
from op_tensors import Guarded, dot_bound, i32, misaligned, randn
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")

EPS = 1e-5


def check(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_bias: Tensor | None = None,
) -> None:
    """`lm_head` where there is no bias, else `classify_head`."""
    dtype = weight.dtype
    normed = Guarded(len(rows), h.shape[1], dtype=dtype)
    out = Guarded(len(rows), len(weight), dtype=torch.float32)
    packed = ops.pack_linear(weight)
    if bias is None:
        ops.lm_head(h, rows, norm_weight, EPS, packed, normed.out, out.out, norm_bias)
    else:
        ops.classify_head(h, rows, norm_weight, EPS, packed, bias, normed.out, out.out, norm_bias)

    assert_bitwise_equal(normed.checked(), norm_of(h[rows.long()], norm_weight, norm_bias))
    wide_bias = None if bias is None else bias.double()
    exact = reference.linear(normed.out.double(), weight.double(), wide_bias)
    bound = dot_bound(normed.out, weight) + 2.0**-23 * exact.abs()
    assert_close(out.checked(), exact, bound)


def norm_of(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the op of the norm says, which has tests of its own."""
    out = torch.empty(h.shape, dtype=weight.dtype)
    if bias is None:
        ops.rms_norm(h, weight, EPS, out)
    else:
        ops.layer_norm(h, weight, bias, EPS, out)
    return out


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 15, 16, 17, 33])
@pytest.mark.parametrize("vocab_size", [1, 17, 100])
@pytest.mark.parametrize("has_norm_bias", [False, True])
def test_lm_head_projects_the_chosen_rows(
    num_rows: int, vocab_size: int, has_norm_bias: bool, dtype: torch.dtype
) -> None:
    h = randn(40, 48)
    rows = torch.randint(40, (num_rows,), dtype=torch.int32)
    weight = randn(vocab_size, 48, dtype=dtype)
    norm_bias = randn(48, dtype=dtype) if has_norm_bias else None
    check(h, rows, randn(48, dtype=dtype), weight, None, norm_bias)


@pytest.mark.parametrize("num_rows", [0, 1, 5, 17])
@pytest.mark.parametrize("num_labels", [1, 2, 9, 16, 33])
@pytest.mark.parametrize("has_norm_bias", [False, True])
def test_classify_head_adds_its_bias(
    num_rows: int, num_labels: int, has_norm_bias: bool, dtype: torch.dtype
) -> None:
    h = randn(20, 48)
    rows = torch.randint(20, (num_rows,), dtype=torch.int32)
    weight, bias = randn(num_labels, 48, dtype=dtype), randn(num_labels, dtype=dtype)
    norm_bias = randn(48, dtype=dtype) if has_norm_bias else None
    check(h, rows, randn(48, dtype=dtype), weight, bias, norm_bias)


@pytest.mark.parametrize("has_biases", [False, True])
def test_a_head_is_no_less_accurate_than_plain_bfloat16(has_biases: bool) -> None:
    dtype = torch.bfloat16
    h, rows = randn(9, 48), i32(8, 0, 3)
    norm_weight, weight = randn(48, dtype=dtype), randn(100, 48, dtype=dtype)
    bias = randn(100, dtype=dtype) if has_biases else None
    norm_bias = randn(48, dtype=dtype) if has_biases else None
    normed, logits = torch.empty(3, 48, dtype=dtype), torch.empty(3, 100)
    packed = ops.pack_linear(weight)
    ops.lm_head(h, rows, norm_weight, EPS, packed, normed, logits, norm_bias, bias, 0.125)

    tensors = (norm_weight, weight, bias, norm_bias)
    wide = [None if t is None else t.double() for t in tensors]
    exact, naive = (
        reference.head(of, rows, norm, EPS, w, b, norm_b, 0.125)
        for of, (norm, w, b, norm_b) in ((h.double(), wide), (h.to(dtype), tensors))
    )
    assert_accurate(logits, exact, naive)


def logits_of(weight: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """[5, V] of an `lm_head` whose other arguments depend on the seed alone."""
    torch.manual_seed(1)
    width, dtype = weight.shape[1], weight.dtype
    h, norm_weight = randn(5, width), randn(width, dtype=dtype)
    normed = torch.empty(5, width, dtype=dtype)
    logits = Guarded(5, len(weight), dtype=torch.float32)
    packed = ops.pack_linear(weight)
    rows = i32(*range(5))
    ops.lm_head(h, rows, norm_weight, EPS, packed, normed, logits.out, None, bias, scale)
    return logits.checked()


@pytest.mark.parametrize("vocab_size", [1, 17, 100])
@pytest.mark.parametrize("scale", [1.0, 0.125, 0.3])
def test_lm_head_scales_the_product_and_then_adds_the_bias(
    vocab_size: int, scale: float, dtype: torch.dtype
) -> None:
    weight, bias = randn(vocab_size, 48, dtype=dtype), randn(vocab_size, dtype=dtype)
    plain = logits_of(weight)
    assert_bitwise_equal(logits_of(weight, None, scale), plain * scale)
    assert_bitwise_equal(logits_of(weight, bias, scale), plain * scale + bias.float())


def test_a_bias_of_minus_infinity_forbids_a_token_exactly(dtype: torch.dtype) -> None:
    weight, bias = randn(100, 48, dtype=dtype), torch.zeros(100, dtype=dtype)
    forbidden = torch.tensor([0, 15, 16, 63, 64, 99])
    bias[forbidden] = -math.inf
    expected = logits_of(weight, None, 0.125)
    expected[:, forbidden] = -math.inf
    assert_bitwise_equal(logits_of(weight, bias, 0.125), expected)


def test_classify_head_without_bias_equals_lm_head(dtype: torch.dtype) -> None:
    h, rows, norm_weight = randn(4, 32), i32(3, 1), randn(32, dtype=dtype)
    weight = ops.pack_linear(randn(5, 32, dtype=dtype))
    normed = torch.empty(2, 32, dtype=dtype)
    logits, scores = torch.empty(2, 5), torch.empty(2, 5)
    ops.lm_head(h, rows, norm_weight, EPS, weight, normed, logits)
    ops.classify_head(h, rows, norm_weight, EPS, weight, None, normed, scores)
    assert_bitwise_equal(scores, logits)


def test_heads_read_the_chosen_rows_only(dtype: torch.dtype) -> None:
    h = torch.full((6, 32), math.nan)
    h[[1, 4]] = randn(2, 32)
    check(h, i32(4, 1, 4), randn(32, dtype=dtype), randn(7, 32, dtype=dtype), None)


def test_heads_read_strided_rows(dtype: torch.dtype) -> None:
    h, rows = misaligned(randn(6, 33)), i32(5, 0, 2)
    bias = randn(7, dtype=dtype)
    check(h, rows, randn(33, dtype=dtype), randn(7, 33, dtype=dtype), bias)
