"""`rms_norm` against float64, rounded once."""

from __future__ import annotations

import pytest
import torch

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

EPS = 1e-5


def check(h: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> None:
    buffer = Guarded(*h.shape, dtype=weight.dtype)
    ops.rms_norm(h, weight, eps, buffer.out)
    exact = reference.rms_norm(h.double(), weight.double(), eps)
    # A sum of squares has no cancellation: a few roundings in float32 and one at the end.
    assert_close(buffer.checked(), exact, rounding(exact, weight.dtype), rtol=8 * 2.0**-24)


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
def test_rms_norm_of_any_number_of_rows(num_tokens: int, dtype: torch.dtype) -> None:
    check(randn(num_tokens, 96), randn(96, dtype=dtype))


@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 31, 33, 63, 64, 65, 255, 257, 3072])
def test_rms_norm_of_any_width(width: int, dtype: torch.dtype) -> None:
    check(randn(3, width), randn(width, dtype=dtype))


def test_rms_norm_reads_strided_rows(dtype: torch.dtype) -> None:
    check(misaligned(randn(5, 96)), randn(96, dtype=dtype))


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e-2, 1e3, 1e15])
def test_rms_norm_of_any_magnitude(scale: float, dtype: torch.dtype) -> None:
    check(scale * randn(4, 64), randn(64, dtype=dtype))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1.0])
def test_rms_norm_uses_eps(eps: float, dtype: torch.dtype) -> None:
    check(1e-3 * randn(4, 64), randn(64, dtype=dtype), eps)


def test_rms_norm_of_zeros_is_zero(dtype: torch.dtype) -> None:
    out = torch.full((2, 32), 7.0, dtype=dtype)
    ops.rms_norm(torch.zeros(2, 32), torch.ones(32, dtype=dtype), EPS, out)
    assert_bitwise_equal(out, torch.zeros(2, 32, dtype=dtype))


def test_rms_norm_of_a_nan_row_is_nan_and_stays_in_its_row(dtype: torch.dtype) -> None:
    h, weight = randn(3, 64), randn(64, dtype=dtype)
    h[1, 17] = torch.nan
    out = torch.zeros(3, 64, dtype=dtype)
    ops.rms_norm(h, weight, EPS, out)
    assert out[1].isnan().all()
    assert out[0].isfinite().all()
    assert out[2].isfinite().all()
