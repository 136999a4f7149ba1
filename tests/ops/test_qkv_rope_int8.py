"""What `qkv_rope` stores in int8 pages, bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal
from op_tensors import NUM_ROWS, Guarded, poisoned, randn
from phi3svc import ops
from reference import Quantized

pytestmark = [pytest.mark.usefixtures("gemm_isa"), pytest.mark.cpu_only]

NUM_PAGES = 5
MAX_POSITION = 80


@dataclass(frozen=True)
class Stored:
    """What a call left in the pages, by slot: k and v [N·P, K, D]."""

    k: Quantized
    v: Quantized
    q: Tensor


def store(
    x: Tensor,
    weight: Tensor,
    table: Tensor,
    positions: Tensor,
    slots: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> Stored:
    head_dim = weight.shape[0] // (num_heads + 2 * num_kv_heads)
    k_shape, v_shape = ops.kv_cache_shapes(NUM_PAGES, num_kv_heads, head_dim, torch.int8)
    k_pages, v_pages = Guarded(*k_shape, dtype=torch.int8), Guarded(*v_shape, dtype=torch.int8)
    scales_shape = ops.kv_scales_shape(NUM_PAGES, num_kv_heads)
    k_scales, v_scales = (Guarded(*scales_shape, dtype=torch.float32) for _ in range(2))
    q = Guarded(len(x), num_heads, head_dim, dtype=x.dtype)
    ops.qkv_rope(
        x,
        ops.pack_linear(weight),
        positions,
        torch.zeros(len(x), dtype=torch.int32),
        table,
        slots,
        k_pages.out,
        v_pages.out,
        q.out,
        k_scales.out,
        v_scales.out,
    )
    return Stored(
        Quantized(
            reference.from_k_pages(k_pages.checked()).flatten(0, 1),
            reference.from_scale_pages(k_scales.checked()).flatten(0, 1),
        ),
        Quantized(
            reference.from_v_pages(v_pages.checked()).flatten(0, 1),
            reference.from_scale_pages(v_scales.checked()).flatten(0, 1),
        ),
        q.checked(),
    )


def assert_stored(found: Quantized, slots: Tensor, heads: Tensor) -> None:
    """`slots` hold `heads` float32 [T, K, D] quantized, every other slot what was there before."""
    expected, written = reference.quantize(heads), slots.long()
    assert_bitwise_equal(found.stored[written], expected.stored)
    is_nan = expected.scales.isnan()
    assert found.scales[written].isnan().equal(is_nan)
    assert_bitwise_equal(found.scales[written][~is_nan], expected.scales[~is_nan])
    untouched = torch.ones(len(found.stored), dtype=torch.bool)
    untouched[written] = False
    rest = found.stored[untouched]
    assert_bitwise_equal(rest, poisoned(*rest.shape, dtype=torch.int8))
    assert found.scales[untouched].isnan().all(), "a scale was written outside of its slot"


def float_heads(
    x: Tensor, weight: Tensor, table: Tensor, positions: Tensor, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of a float32 call with float32 pages, whose bits other tests hold."""
    head_dim = weight.shape[0] // (num_heads + 2 * num_kv_heads)
    k_shape, v_shape = ops.kv_cache_shapes(NUM_PAGES, num_kv_heads, head_dim, torch.float32)
    k_pages, v_pages = torch.empty(k_shape), torch.empty(v_shape)
    q = torch.empty(len(x), num_heads, head_dim)
    slots, sets = (f(len(x), dtype=torch.int32) for f in (torch.arange, torch.zeros))
    ops.qkv_rope(x, ops.pack_linear(weight), positions, sets, table, slots, k_pages, v_pages, q)
    k, v = reference.from_k_pages(k_pages), reference.from_v_pages(v_pages)
    return q, k.flatten(0, 1)[: len(x)], v.flatten(0, 1)[: len(x)]


def angles(num_pairs: int) -> Tensor:
    turns = torch.outer(torch.arange(MAX_POSITION), 10.0 ** -(torch.arange(num_pairs) / num_pairs))
    return torch.stack([1.2 * turns.cos(), 1.2 * turns.sin()], dim=-1)[None]


def no_rotation(num_pairs: int) -> Tensor:
    return torch.tensor([1.0, 0.0]).repeat(1, MAX_POSITION, num_pairs, 1)


def random_slots(num_tokens: int) -> Tensor:
    return torch.randperm(NUM_PAGES * ops.PAGE_SIZE, dtype=torch.int32)[:num_tokens]


def check_float32(num_tokens: int, heads: tuple[int, int], head_dim: int, width: int) -> None:
    num_heads, num_kv_heads = heads
    x = randn(num_tokens, width)
    weight = randn((num_heads + 2 * num_kv_heads) * head_dim, width)
    table, slots = angles(head_dim // 2), random_slots(num_tokens)
    positions = torch.randint(MAX_POSITION, (num_tokens,), dtype=torch.int32)
    found = store(x, weight, table, positions, slots, *heads)
    q, k, v = float_heads(x, weight, table, positions, *heads)
    assert_bitwise_equal(found.q, q)
    assert_stored(found.k, slots, k)
    assert_stored(found.v, slots, v)


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
def test_rotated_keys_and_values_are_quantized_exactly(num_tokens: int) -> None:
    check_float32(num_tokens, (4, 2), 32, 40)


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads", [(1, 1), (3, 1), (6, 2)])
def test_heads_of_any_size_are_quantized_exactly(head_dim: int, heads: tuple[int, int]) -> None:
    check_float32(5, heads, head_dim, 17)


def test_a_bfloat16_model_quantizes_before_it_rounds() -> None:
    """Its keys and values are those of the float32 model with the same weights."""
    x, weight = randn(9, 40, dtype=torch.bfloat16), randn(8 * 32, 40, dtype=torch.bfloat16)
    table, slots, positions = no_rotation(16), random_slots(9), torch.zeros(9, dtype=torch.int32)
    found = store(x, weight, table, positions, slots, 4, 2)
    projected = torch.empty(9, 8 * 32)
    ops.linear(x, ops.pack_linear(weight), projected)
    _, k, v = projected.view(9, 8, 32).split([4, 2, 2], dim=1)
    assert_stored(found.k, slots, k)
    assert_stored(found.v, slots, v)
    rounded = reference.quantize(v.bfloat16().float())
    assert not found.v.scales[slots.long()].equal(rounded.scales), "the test could not tell"


def store_heads(heads: Tensor, gain: float = 1.0, table: Tensor | None = None) -> Stored:
    """Stores gain times float32 [T, D] as keys and values, in slots 0..T-1."""
    num_tokens, head_dim = heads.shape
    weight = gain * torch.eye(head_dim).repeat(3, 1)
    slots = torch.arange(num_tokens, dtype=torch.int32)
    return store(heads, weight, no_rotation(1) if table is None else table, slots, slots, 1, 1)


def test_ties_round_to_even_and_the_ends_are_reached() -> None:
    heads = torch.zeros(1, 16)
    heads[0] = torch.tensor(
        [
            127,
            -127,
            126.5,
            -126.5,
            125.5,
            0.5,
            -0.5,
            1.5,
            2.5,
            -1.5,
            -2.5,
            0.49,
            0.51,
            3,
            63.5,
            -0.0,
        ]
    )
    found = store_heads(heads)
    expected = torch.tensor([127, -127, 126, -126, 126, 0, 0, 2, 2, -2, -2, 0, 1, 3, 64, 0])
    for quantized in (found.k, found.v):
        assert quantized.scales[0, 0] == 1.0
        assert quantized.stored[0, 0].tolist() == expected.tolist()


def test_numbers_of_any_size_are_quantized_exactly() -> None:
    """From the smallest subnormals, whose scale has few bits or is 0, to the largest floats."""
    exponents = torch.arange(-148, 128)[: NUM_PAGES * ops.PAGE_SIZE * 4]
    for some in exponents.split(NUM_PAGES * ops.PAGE_SIZE):
        heads = torch.ldexp(torch.rand(len(some), 32) * 2 - 1, some[:, None])
        found, slots = store_heads(heads), torch.arange(len(some))
        assert_stored(found.k, slots, heads[:, None])
        assert_stored(found.v, slots, heads[:, None])


def test_a_head_of_zeros_has_scale_zero() -> None:
    heads = torch.tensor([0.0, -0.0]).repeat(2, 16)
    found = store_heads(heads)
    for quantized in (found.k, found.v):
        assert_bitwise_equal(quantized.scales[:2, 0], torch.zeros(2))
        assert_bitwise_equal(quantized.stored[:2, 0], torch.zeros(2, 32, dtype=torch.int8))


@pytest.mark.parametrize("large", [3e38, -3e38])
@pytest.mark.parametrize("dim", [0, 17, 31])
def test_a_head_with_an_infinity_has_scale_nan_and_no_other(large: float, dim: int) -> None:
    """Whoever reads it gets NaN, which the engine reports; its neighbours are as they were."""
    heads = randn(3, 32)
    heads[1, dim] = large
    found, doubled = store_heads(heads, gain=2.0), 2 * heads
    assert doubled.isinf().sum() == 1
    assert_stored(found.k, torch.arange(3), doubled[:, None])
    assert_stored(found.v, torch.arange(3), doubled[:, None])
    assert found.k.scales[:3, 0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("pair", [0, 7, 15])
def test_a_head_with_a_nan_has_scale_nan_and_no_other(pair: int) -> None:
    heads, table = randn(3, 32), no_rotation(16)
    table[0, 1, pair, 0] = math.nan  # spoils two dims of the key at position 1
    found = store_heads(heads, table=table)
    spoilt = heads.clone()
    spoilt[1, [pair, pair + 16]] = math.nan
    assert_stored(found.k, torch.arange(3), spoilt[:, None])
    assert_stored(found.v, torch.arange(3), heads[:, None])
    assert found.k.scales[:3, 0].isnan().tolist() == [False, True, False]
