"""`lm_head` and `classify_head`: gather, norm, project."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import Guarded, dot_bound, i32, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

EPS = 1e-5


def check(
    h: Tensor, rows: Tensor, norm_weight: Tensor, weight: Tensor, bias: Tensor | None
) -> None:
    dtype = weight.dtype
    normed = Guarded(len(rows), h.shape[1], dtype=dtype)
    out = Guarded(len(rows), len(weight), dtype=torch.float32)
    packed = ops.pack_linear(weight)
    if bias is None:
        ops.lm_head(h, rows, norm_weight, EPS, packed, normed.out, out.out)
    else:
        ops.classify_head(h, rows, norm_weight, EPS, packed, bias, normed.out, out.out)

    exact = reference.rms_norm(h[rows.long()].double(), norm_weight.double(), EPS)
    assert_close(normed.checked(), exact, rounding(exact, dtype), rtol=8 * 2.0**-24)
    wide_bias = None if bias is None else bias.double()
    exact = reference.linear(normed.out.double(), weight.double(), wide_bias)
    bound = dot_bound(normed.out, weight) + 2.0**-23 * exact.abs()
    assert_close(out.checked(), exact, bound)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 15, 16, 17, 33])
@pytest.mark.parametrize("vocab_size", [1, 17, 100])
def test_lm_head_projects_the_chosen_rows(
    num_rows: int, vocab_size: int, dtype: torch.dtype
) -> None:
    h = randn(40, 48)
    rows = torch.randint(40, (num_rows,), dtype=torch.int32)
    weight = randn(vocab_size, 48, dtype=dtype)
    check(h, rows, randn(48, dtype=dtype), weight, None)


@pytest.mark.parametrize("num_rows", [0, 1, 5, 17])
@pytest.mark.parametrize("num_labels", [1, 2, 9, 16, 33])
def test_classify_head_adds_its_bias(num_rows: int, num_labels: int, dtype: torch.dtype) -> None:
    h = randn(20, 48)
    rows = torch.randint(20, (num_rows,), dtype=torch.int32)
    weight, bias = randn(num_labels, 48, dtype=dtype), randn(num_labels, dtype=dtype)
    check(h, rows, randn(48, dtype=dtype), weight, bias)


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
