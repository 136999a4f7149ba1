"""`mlp`: SwiGLU and the down projection, each against float64 from the values it really got."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_accurate, assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, dot_bound, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")


def swiglu_bound(x: Tensor, gate_up: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """|silu'| < 1.1 and |silu(g)| <= |g|, so errors of gate and up pass on bounded."""
    gate, up = reference.linear(x.double(), gate_up.double()).chunk(2, dim=-1)
    gate_error, up_error = dot_bound(x, gate_up).chunk(2, dim=-1)
    passed_on = 1.1 * gate_error * up.abs() + gate.abs() * up_error
    return passed_on + 16 * 2.0**-24 * exact.abs() + rounding(exact, dtype)


def check(x: Tensor, gate_up: Tensor, down: Tensor) -> None:
    dtype, mlp_width = x.dtype, down.shape[1]
    act = Guarded(len(x), mlp_width, dtype=dtype)
    h = Guarded(len(x), len(down), dtype=torch.float32)
    residual = randn(len(x), len(down))
    h.out.copy_(residual)
    ops.mlp(x, ops.pack_gate_up(gate_up), ops.pack_linear(down), act.out, h.out)

    exact_act = reference.swiglu(x.double(), gate_up.double())
    assert_close(act.checked(), exact_act, swiglu_bound(x, gate_up, exact_act, dtype))

    exact = residual.double() + reference.linear(act.out.double(), down.double())
    bound = dot_bound(act.out, down) + rounding(exact, torch.float32)
    assert_close(h.checked(), exact, bound)

    whole = reference.mlp(x.double(), gate_up.double(), down.double())
    naive = reference.mlp(x, gate_up, down)
    if dtype == torch.bfloat16 and len(x):
        added = (h.out.double() - residual.double()).to(dtype)
        assert_accurate(added, whole, naive)


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
def test_mlp_of_any_number_of_rows(num_tokens: int, dtype: torch.dtype) -> None:
    gate_up, down = randn(2 * 80, 48, dtype=dtype, std=0.2), randn(48, 80, dtype=dtype, std=0.2)
    check(randn(num_tokens, 48, dtype=dtype), gate_up, down)


@pytest.mark.parametrize("mlp_width", [1, 2, 15, 16, 17, 24, 31, 33, 47, 100, 256])
@pytest.mark.parametrize("num_tokens", [1, 6])
def test_mlp_of_any_width(mlp_width: int, num_tokens: int, dtype: torch.dtype) -> None:
    gate_up = randn(2 * mlp_width, 40, dtype=dtype, std=0.2)
    check(randn(num_tokens, 40, dtype=dtype), gate_up, randn(40, mlp_width, dtype=dtype, std=0.2))


@pytest.mark.parametrize("width", [1, 7, 16, 33])
def test_mlp_of_any_hidden_size(width: int, dtype: torch.dtype) -> None:
    gate_up, down = randn(2 * 24, width, dtype=dtype), randn(width, 24, dtype=dtype)
    check(randn(5, width, dtype=dtype), gate_up, down)


def test_mlp_reads_strided_rows(dtype: torch.dtype) -> None:
    x = misaligned(randn(5, 32, dtype=dtype))
    check(x, randn(2 * 20, 32, dtype=dtype), randn(32, 20, dtype=dtype))


@pytest.mark.parametrize("scale", [10.0, 100.0, 1e4])
def test_silu_saturates_without_overflow(scale: float, dtype: torch.dtype) -> None:
    """gate = ±scale: silu is the gate itself, or zero; exp must not turn that into nan."""
    gate = torch.tensor([scale, -scale, scale / 7, -scale / 7])
    gate_up = torch.zeros(8, 4, dtype=dtype)
    gate_up[:, 0] = torch.cat([gate, torch.ones(4)])
    act = torch.empty(1, 4, dtype=dtype)
    h = torch.zeros(1, 4)
    x = torch.eye(4, dtype=dtype)[:1]
    ops.mlp(x, ops.pack_gate_up(gate_up), ops.pack_linear(torch.eye(4, dtype=dtype)), act, h)
    exact = torch.nn.functional.silu(gate_up[:4, 0].double())[None]
    # exp(-g) loses |g| roundings' worth of relative accuracy where it matters at all.
    bound = rounding(exact, dtype) + exact.abs() * 64 * 2.0**-24 + 1e-30
    assert_close(act, exact, bound)
    assert_bitwise_equal(h + 0.0, act.float() + 0.0)


def test_mlp_keeps_nan_in_its_row(dtype: torch.dtype) -> None:
    x = randn(6, 32, dtype=dtype)
    x[4, 3] = math.nan
    act, h = torch.zeros(6, 20, dtype=dtype), torch.zeros(6, 32)
    gate_up, down = randn(40, 32, dtype=dtype), randn(32, 20, dtype=dtype)
    ops.mlp(x, ops.pack_gate_up(gate_up), ops.pack_linear(down), act, h)
    assert h[4].isnan().all()
    assert h[[0, 1, 2, 3, 5]].isfinite().all()
