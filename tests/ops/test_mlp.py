"""`mlp`: activation and down projection, each against float64 from the values it really got."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_accurate, assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, dot_bound, misaligned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")


@dataclass(frozen=True)
class Extras:
    """What Phi-3-small's MLP has beyond Phi-3's."""

    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    gegelu_limit: float | None = None

    def wide(self) -> Extras:
        """In float64."""

        def double(bias: Tensor | None) -> Tensor | None:
            return None if bias is None else bias.double()

        return Extras(double(self.gate_up_bias), double(self.down_bias), self.gegelu_limit)


NONE = Extras()


def small_extras(mlp_width: int, width: int, dtype: torch.dtype, limit: float = 0.7) -> Extras:
    return Extras(randn(2 * mlp_width, dtype=dtype), randn(width, dtype=dtype), limit)


def activation_bound(
    x: Tensor, gate_up: Tensor, extras: Extras, exact: Tensor, dtype: torch.dtype
) -> Tensor:
    """|f'| < 1.1 and |f(g)| <= |g| for silu and quick gelu, and limits bring nothing apart.

    So errors of gate and up pass on bounded.
    """
    both = reference.linear(x.double(), gate_up.double(), extras.wide().gate_up_bias)
    gate, up = both.chunk(2, dim=-1)
    gate_error, up_error = (dot_bound(x, gate_up) + 2.0**-24 * both.abs()).chunk(2, dim=-1)
    other = up.abs() if extras.gegelu_limit is None else up.abs() + 1
    passed_on = 1.1 * gate_error * other + gate.abs() * up_error
    return passed_on + 2.0**-24 * (16 * exact.abs() + gate.abs()) + rounding(exact, dtype)


def check(x: Tensor, gate_up: Tensor, down: Tensor, extras: Extras = NONE) -> None:
    dtype, mlp_width = x.dtype, down.shape[1]
    wide = extras.wide()
    act = Guarded(len(x), mlp_width, dtype=dtype)
    h = Guarded(len(x), len(down), dtype=torch.float32)
    residual = randn(len(x), len(down))
    h.out.copy_(residual)
    ops.mlp(
        x,
        ops.pack_gate_up(gate_up),
        ops.pack_linear(down),
        act.out,
        h.out,
        extras.gate_up_bias,
        extras.down_bias,
        extras.gegelu_limit,
    )

    exact_act = reference.activation(
        x.double(), gate_up.double(), wide.gate_up_bias, wide.gegelu_limit
    )
    assert_close(act.checked(), exact_act, activation_bound(x, gate_up, extras, exact_act, dtype))

    added = reference.linear(act.out.double(), down.double(), wide.down_bias)
    exact = residual.double() + added
    bound = dot_bound(act.out, down) + 2.0**-24 * added.abs() + rounding(exact, torch.float32)
    assert_close(h.checked(), exact, bound)

    whole = reference.mlp(x.double(), gate_up.double(), down.double(), **vars(wide))
    naive = reference.mlp(x, gate_up, down, **vars(extras))
    if dtype == torch.bfloat16 and len(x):
        assert_accurate((h.out.double() - residual.double()).to(dtype), whole, naive)


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
@pytest.mark.parametrize("is_small", [False, True])
def test_mlp_of_any_number_of_rows(num_tokens: int, is_small: bool, dtype: torch.dtype) -> None:
    gate_up, down = randn(2 * 80, 48, dtype=dtype, std=0.2), randn(48, 80, dtype=dtype, std=0.2)
    extras = small_extras(80, 48, dtype) if is_small else NONE
    check(randn(num_tokens, 48, dtype=dtype), gate_up, down, extras)


@pytest.mark.parametrize("mlp_width", [1, 2, 15, 16, 17, 24, 31, 33, 47, 100, 256])
@pytest.mark.parametrize("num_tokens", [1, 6])
@pytest.mark.parametrize("is_small", [False, True])
def test_mlp_of_any_width(
    mlp_width: int, num_tokens: int, is_small: bool, dtype: torch.dtype
) -> None:
    gate_up = randn(2 * mlp_width, 40, dtype=dtype, std=0.2)
    down = randn(40, mlp_width, dtype=dtype, std=0.2)
    extras = small_extras(mlp_width, 40, dtype) if is_small else NONE
    check(randn(num_tokens, 40, dtype=dtype), gate_up, down, extras)


@pytest.mark.parametrize("width", [1, 7, 16, 33])
def test_mlp_of_any_hidden_size(width: int, dtype: torch.dtype) -> None:
    gate_up, down = randn(2 * 24, width, dtype=dtype), randn(width, 24, dtype=dtype)
    check(randn(5, width, dtype=dtype), gate_up, down)


def test_mlp_reads_strided_rows(dtype: torch.dtype) -> None:
    x = misaligned(randn(5, 32, dtype=dtype))
    check(x, randn(2 * 20, 32, dtype=dtype), randn(32, 20, dtype=dtype))


@pytest.mark.parametrize("bias", ["gate_up_bias", "down_bias"])
@pytest.mark.parametrize("limit", [None, 2.0])
def test_mlp_takes_either_bias_alone(bias: str, limit: float | None, dtype: torch.dtype) -> None:
    extras = small_extras(20, 32, dtype)
    x, gate_up, down = (
        randn(rows, columns, dtype=dtype) for rows, columns in ((5, 32), (40, 32), (32, 20))
    )
    check(x, gate_up, down, Extras(**{bias: getattr(extras, bias)}, gegelu_limit=limit))


@pytest.mark.parametrize("limit", [0.1, 1.0, 20.0, math.inf])
def test_gegelu_limits_gate_and_up(limit: float, dtype: torch.dtype) -> None:
    """Every gate with every up, on both sides of the limits."""
    edges = (0.0, limit, -limit, 1.5 * limit, -1.5 * limit, 1e4, -1e4, 0.5, -0.5, -30.0)
    values = torch.tensor([value for value in edges if math.isfinite(value)], dtype=dtype)
    act = activations_of(values, values, limit)
    gate, up = torch.cartesian_prod(values.double(), values.double()).unbind(-1)
    exact = reference.gegelu(gate, up, limit)[None]
    # exp(-1.702 a) loses |1.702 a| roundings' worth of relative accuracy.
    bound = rounding(exact, dtype) + exact.abs() * 64 * 2.0**-24 + 1e-30
    assert_close(act, exact, bound)


@pytest.mark.parametrize("limit", [1.0, 20.0])
def test_gegelu_leaves_infinities_and_nan_alone(limit: float, dtype: torch.dtype) -> None:
    special = torch.tensor([math.inf, math.nan], dtype=dtype)
    ordinary = torch.tensor([0.5, 2 * limit], dtype=dtype)
    as_gate = activations_of(special, ordinary, limit)
    assert_bitwise_equal(as_gate[0, :2], torch.full((2,), math.inf, dtype=dtype))
    assert as_gate[0, 2:].isnan().all()
    infinities = torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype)
    as_up = activations_of(ordinary, infinities, limit).view(2, 3)
    assert_bitwise_equal(as_up[:, :2], torch.tensor([[math.inf, -math.inf]] * 2, dtype=dtype))
    assert as_up[:, 2].isnan().all()


def activations_of(gates: Tensor, ups: Tensor, limit: float) -> Tensor:
    """gegelu of every gate with every up, [1, gates · ups], given as biases of a product of 0."""
    gate, up = torch.cartesian_prod(gates, ups).unbind(-1)
    width = len(gate)
    gate_up, down = (
        torch.zeros(*shape, dtype=gates.dtype) for shape in ((2 * width, 1), (1, width))
    )
    act, h = torch.empty(1, width, dtype=gates.dtype), torch.zeros(1, 1)
    ops.mlp(
        torch.ones(1, 1, dtype=gates.dtype),
        ops.pack_gate_up(gate_up),
        ops.pack_linear(down),
        act,
        h,
        torch.cat([gate, up]),
        gegelu_limit=limit,
    )
    return act


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
