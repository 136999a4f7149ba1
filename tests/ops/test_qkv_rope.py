"""`qkv_rope`: projection, rotation and the write into pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from devices import DEVICE
from op_tensors import NUM_ROWS, Guarded, dot_bound, i32, misaligned, poisoned, randn, rounding
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")

NUM_PAGES = 5
MAX_POSITION = 40


@dataclass(frozen=True)
class Shape:
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    rotary_dim: int = 32
    width: int = 40


def rope_table(rotary_dim: int, num_sets: int = 2) -> Tensor:
    """Angles as in a model, another base and another attention factor for each set."""
    pairs = torch.arange(rotary_dim // 2) / (rotary_dim // 2)
    angles = torch.stack(
        [torch.outer(torch.arange(MAX_POSITION), (10.0 + s) ** -pairs) for s in range(num_sets)]
    )
    factor = 1 + 0.19 * torch.arange(num_sets)[:, None, None]
    return torch.stack([factor * angles.cos(), factor * angles.sin()], dim=-1).float()


@dataclass(frozen=True)
class Result:
    q: Tensor  # [T, H, D]
    k_slots: Tensor  # [N·P, K, D]
    v_slots: Tensor  # [N·P, K, D]


def run(
    shape: Shape,
    x: Tensor,
    weight: Tensor,
    positions: Tensor,
    rope_sets: Tensor,
    table: Tensor,
    slots: Tensor,
    bias: Tensor | None = None,
) -> Result:
    k_shape, v_shape = ops.kv_cache_shapes(
        NUM_PAGES, shape.num_kv_heads, shape.head_dim, x.dtype, DEVICE
    )
    k_pages, v_pages = Guarded(*k_shape, dtype=x.dtype), Guarded(*v_shape, dtype=x.dtype)
    q = Guarded(len(x), shape.num_heads, shape.head_dim, dtype=x.dtype)
    ops.qkv_rope(
        x,
        ops.pack_qkv(weight, shape.num_heads, shape.num_kv_heads, shape.rotary_dim),
        positions,
        rope_sets,
        table,
        slots,
        k_pages.out,
        v_pages.out,
        q.out,
        bias=bias,
    )
    return Result(
        q.checked(),
        reference.from_k_pages(k_pages.checked()).flatten(0, 1),
        reference.from_v_pages(v_pages.checked()).flatten(0, 1),
    )


def check(
    shape: Shape,
    num_tokens: int,
    dtype: torch.dtype,
    x: Tensor | None = None,
    has_bias: bool = False,
) -> None:
    x = randn(num_tokens, shape.width, dtype=dtype) if x is None else x
    num_rows = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    weight = randn(num_rows, shape.width, dtype=dtype)
    bias = randn(num_rows, dtype=dtype) if has_bias else None
    positions = torch.randint(MAX_POSITION, (num_tokens,), dtype=torch.int32)
    rope_sets = torch.randint(2, (num_tokens,), dtype=torch.int32)
    table = rope_table(shape.rotary_dim)
    slots = torch.randperm(NUM_PAGES * ops.PAGE_SIZE, dtype=torch.int32)[:num_tokens]
    result = run(shape, x, weight, positions, rope_sets, table, slots, bias)

    exact = reference.qkv_rope(
        x.double(),
        weight.double(),
        positions,
        rope_sets,
        table.double(),
        shape.num_heads,
        shape.num_kv_heads,
        None if bias is None else bias.double(),
    )
    # A rotated value is two products of a dot product with a cosine, each rounded.
    worst_dot = dot_bound(x, weight).amax() if num_tokens else 0.0
    worst = 2 * table.abs().max().double() * (worst_dot + 2.0**-22)
    written = slots.long()
    for actual, expected in (
        (result.q, exact.q),
        (result.k_slots[written], exact.k),
        (result.v_slots[written], exact.v),
    ):
        bound = worst + 2.0**-22 * expected.abs() + rounding(expected, dtype)
        assert_close(actual, expected, bound)

    untouched = torch.ones(NUM_PAGES * ops.PAGE_SIZE, dtype=torch.bool)
    untouched[written] = False
    assert result.k_slots[untouched].isnan().all(), "a key was written outside of its slot"
    assert result.v_slots[untouched].isnan().all(), "a value was written outside of its slot"


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_qkv_rope_of_any_number_of_rows(
    num_tokens: int, has_bias: bool, dtype: torch.dtype
) -> None:
    check(Shape(), num_tokens, dtype, has_bias=has_bias)


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 96, 128])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(1, 1), (3, 1), (4, 1), (6, 2), (2, 2)])
def test_qkv_rope_of_any_heads(
    head_dim: int, num_heads: int, num_kv_heads: int, dtype: torch.dtype
) -> None:
    shape = Shape(num_heads, num_kv_heads, head_dim, head_dim, 24)
    check(shape, 5, dtype)
    check(shape, 5, dtype, has_bias=True)


@pytest.mark.parametrize(
    ("head_dim", "rotary_dim"),
    [(32, 2), (32, 16), (32, 24), (48, 32), (64, 6), (96, 72), (128, 96), (128, 126)],
)
def test_qkv_rope_rotates_the_first_dims_only(
    head_dim: int, rotary_dim: int, dtype: torch.dtype
) -> None:
    check(Shape(3, 1, head_dim, rotary_dim), 6, dtype)


@pytest.mark.parametrize("width", [1, 15, 17, 33])
def test_qkv_rope_of_any_width(width: int, dtype: torch.dtype) -> None:
    check(Shape(width=width), 6, dtype)


def test_qkv_rope_reads_strided_rows(dtype: torch.dtype) -> None:
    check(Shape(), 5, dtype, misaligned(randn(5, 40, dtype=dtype)))


def test_qkv_rope_pairs_dim_i_with_dim_i_plus_half_exactly(dtype: torch.dtype) -> None:
    """A quarter turn maps (a, b) to (-b, a), which integers show without rounding."""
    shape = Shape(num_heads=1, num_kv_heads=1, head_dim=32, rotary_dim=16, width=16)
    x = torch.randint(-3, 4, (4, 16)).to(dtype)
    weight = torch.randint(-3, 4, (96, 16)).to(dtype)
    table = torch.zeros(1, MAX_POSITION, 8, 2)
    table[..., 1] = 1.0
    positions, zeros, slots = i32(0, 9, 1, 7), i32(0, 0, 0, 0), i32(3, 16, 79, 40)
    result = run(shape, x, weight, positions, zeros, table, slots)
    q, k, v = (x.double() @ weight.double().T).long().split(32, dim=-1)

    def turned(y: Tensor) -> Tensor:
        return torch.cat([-y[:, 8:16], y[:, :8], y[:, 16:]], dim=-1)

    assert_bitwise_equal(result.q[:, 0] + 0.0, turned(q).float().to(dtype))
    assert_bitwise_equal(result.k_slots[slots.long(), 0] + 0.0, turned(k).float().to(dtype))
    assert_bitwise_equal(result.v_slots[slots.long(), 0] + 0.0, v.float().to(dtype))


def test_qkv_rope_reads_the_table_at_its_position_and_set_only(dtype: torch.dtype) -> None:
    shape = Shape()
    table = poisoned(3, MAX_POSITION, 16, 2, dtype=torch.float32)
    table[2, 11] = rope_table(32, 3)[2, 11]
    x, weight = randn(1, 40, dtype=dtype), randn(8 * 32, 40, dtype=dtype)
    result = run(shape, x, weight, i32(11), i32(2), table, i32(17))
    assert result.q.isfinite().all()
    assert result.k_slots[17].isfinite().all()


def test_qkv_rope_keeps_nan_in_its_row(dtype: torch.dtype) -> None:
    shape = Shape()
    x, weight = randn(5, 40, dtype=dtype), randn(8 * 32, 40, dtype=dtype)
    x[3, 2] = math.nan
    positions, slots = i32(4, 5, 6, 7, 8), i32(20, 21, 22, 23, 24)
    result = run(shape, x, weight, positions, i32(0, 1, 0, 1, 0), rope_table(32), slots)
    clean = [0, 1, 2, 4]
    assert result.q[3].isnan().all()
    assert result.q[clean].isfinite().all()
    assert result.k_slots[slots.long()[clean]].isfinite().all()
    assert result.v_slots[slots.long()[clean]].isfinite().all()
