"""`layer_norm` against float64, rounded once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, dot_bound, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

EPS = 1e-5


def check(h: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS) -> None:
    buffer = Guarded(*h.shape, dtype=weight.dtype)
    ops.layer_norm(h, weight, bias, eps, buffer.out)
    exact = reference.layer_norm(h.double(), weight.double(), bias.double(), eps)
    # What the mean is off by, every deviation is off by; the rest are a few roundings.
    mean_error = dot_bound(h, torch.ones(1, h.shape[1])) / h.shape[1]
    deviation = h.double() - h.double().mean(-1, keepdim=True)
    factor = torch.rsqrt(deviation.pow(2).mean(-1, keepdim=True) + eps)
    passed_on = factor * weight.double().abs() * mean_error
    own = 2.0**-24 * (8 * (exact - bias.double()).abs() + exact.abs())
    assert_close(buffer.checked(), exact, passed_on + own + rounding(exact, weight.dtype))


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
def test_layer_norm_of_any_number_of_rows(num_tokens: int, dtype: torch.dtype) -> None:
    check(randn(num_tokens, 96), randn(96, dtype=dtype), randn(96, dtype=dtype))


@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 31, 33, 63, 64, 65, 255, 257, 3072])
def test_layer_norm_of_any_width(width: int, dtype: torch.dtype) -> None:
    check(2 + randn(3, width), randn(width, dtype=dtype), randn(width, dtype=dtype))


def test_layer_norm_reads_strided_rows(dtype: torch.dtype) -> None:
    check(misaligned(randn(5, 96)), randn(96, dtype=dtype), randn(96, dtype=dtype))


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e-2, 1e3, 1e15])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_layer_norm_of_any_magnitude(mean: float, scale: float, dtype: torch.dtype) -> None:
    h = scale * (mean + randn(4, 64))
    check(h, randn(64, dtype=dtype), randn(64, dtype=dtype))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1.0])
def test_layer_norm_uses_eps(eps: float, dtype: torch.dtype) -> None:
    check(1e-3 * randn(4, 64), randn(64, dtype=dtype), randn(64, dtype=dtype), eps)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("width", [5, 32])
def test_layer_norm_of_equal_numbers_is_the_bias(
    value: float, width: int, dtype: torch.dtype
) -> None:
    h, bias = torch.full((2, width), value), randn(width, dtype=dtype)
    out = torch.empty(2, width, dtype=dtype)
    ops.layer_norm(h, torch.ones(width, dtype=dtype), bias, EPS, out)
    assert_bitwise_equal(out, bias.expand(2, width).contiguous())


def test_layer_norm_may_write_over_its_input() -> None:
    h, weight, bias = randn(3, 33), randn(33), randn(33)
    out = torch.empty_like(h)
    ops.layer_norm(h, weight, bias, EPS, out)
    ops.layer_norm(h, weight, bias, EPS, h)
    assert_bitwise_equal(h, out)


def test_layer_norm_of_a_nan_row_is_nan_and_stays_in_its_row(dtype: torch.dtype) -> None:
    h, weight, bias = randn(3, 64), randn(64, dtype=dtype), randn(64, dtype=dtype)
    h[1, 17] = math.nan
    out = torch.zeros(3, 64, dtype=dtype)
    ops.layer_norm(h, weight, bias, EPS, out)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()
