"""`attention` over int8 pages against float64 over what they stand for, and its exact cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import (
    Guarded,
    i32,
    paginate_quantized,
    poisoned,
    randn,
    rounding,
    seen_keys,
    starts_of,
)
from phi3svc import ops
from reference import Quantized
from test_attention import EDGES, MIXED, bound

pytestmark = [pytest.mark.usefixtures("gemm_isa"), pytest.mark.cpu_only]


def random_heads(num_keys: int, num_kv_heads: int, head_dim: int) -> Quantized:
    return reference.quantize(randn(num_keys, num_kv_heads, head_dim))


def attend(
    queries: list[Tensor],
    keys: list[Quantized],
    values: list[Quantized],
    window: int,
    scale: float,
    block_sparse: ops.BlockSparse | None = None,
) -> list[Tensor]:
    """The op's output per sequence; what no query may see is poisoned."""
    lens = [len(q) for q in queries]
    visible = [
        seen_keys(len(k.stored), *q.shape[:2], k.stored.shape[1], window, block_sparse)
        for q, k in zip(queries, keys, strict=True)
    ]
    paged = paginate_quantized(keys, values, visible)
    q = torch.cat(queries)
    buffer = Guarded(len(q), q[0].numel(), dtype=q.dtype)
    ops.attention(
        q,
        paged.k_pages,
        paged.v_pages,
        paged.block_tables,
        starts_of(lens),
        paged.context_lens,
        window,
        scale,
        buffer.out,
        paged.k_scales,
        paged.v_scales,
        block_sparse,
    )
    return list(buffer.checked().split(lens))


def check(
    lens: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    window: int = 0,
    block_sparse: ops.BlockSparse | None = None,
) -> None:
    """Against float64 over what the stored numbers stand for."""
    num_heads, num_kv_heads = heads
    scale = head_dim**-0.5
    queries = [randn(num, num_heads, head_dim, dtype=dtype) for _, num in lens]
    keys = [random_heads(n, num_kv_heads, head_dim) for n, _ in lens]
    values = [random_heads(n, num_kv_heads, head_dim) for n, _ in lens]
    outs = attend(queries, keys, values, window, scale, block_sparse)
    for out, q, k, v in zip(outs, queries, keys, values, strict=True):
        exact = reference.attention(
            q.double(), k.restored(), v.restored(), window, scale, block_sparse
        )
        allowed = bound(q, k.restored(), v.restored(), scale) + rounding(exact, dtype)
        assert_close(out, exact, allowed)


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 96, 128])
@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (8, 2)], ids=["group1", "group3", "group4"])
def test_attention_of_mixed_sequences(
    head_dim: int, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    check(MIXED, heads, head_dim, dtype)


@pytest.mark.parametrize(("heads", "head_dim"), [((50, 1), 16), ((8, 8), 256), ((40, 10), 128)])
def test_attention_of_unusual_heads(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> None:
    check([(33, 5), (17, 1), (260, 2)], heads, head_dim, dtype)


@pytest.mark.parametrize("window", [0, 1, 5, 16, 255, 256, 257, 1000])
def test_attention_in_a_window_and_at_page_and_span_edges(window: int, dtype: torch.dtype) -> None:
    check([*MIXED, *EDGES], (3, 1), 32, dtype, window)


@pytest.mark.parametrize("num_queries", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_attention_of_any_number_of_queries(num_queries: int, dtype: torch.dtype) -> None:
    check([(num_queries, num_queries), (num_queries + 250, num_queries)], (4, 2), 32, dtype)


def test_attention_of_no_sequence_does_nothing(dtype: torch.dtype) -> None:
    k_shape, v_shape = ops.kv_cache_shapes(2, 1, 32, torch.int8)
    k_pages, v_pages = poisoned(*k_shape, dtype=torch.int8), poisoned(*v_shape, dtype=torch.int8)
    scales = poisoned(*ops.kv_scales_shape(2, 1), dtype=torch.float32)
    out, q = torch.empty(0, 64, dtype=dtype), torch.empty(0, 2, 32, dtype=dtype)
    tables = torch.empty(0, 4, dtype=torch.int32)
    ops.attention(q, k_pages, v_pages, tables, i32(0), i32(), 0, 1.0, out, scales, scales)


def test_attention_picks_the_key_that_stands_out(dtype: torch.dtype) -> None:
    """With one score far above the others the output is that key's restored value."""
    num_keys = 600
    for chosen in (0, 15, 16, 255, 256, 257, 511, 512, 599):
        k = torch.full((num_keys, 1, 32), -8.0)
        k[chosen] = 8.0
        v = random_heads(num_keys, 1, 32)
        q = torch.ones(1, 1, 32, dtype=dtype)
        (out,) = attend([q], [reference.quantize(k)], [v], 0, 1.0)
        restored = v.stored[chosen].float() * v.scales[chosen][:, None]
        assert_bitwise_equal(out, (restored + 0.0).to(dtype).view(1, 32))


def test_attention_weighs_every_key_by_its_own_scale(dtype: torch.dtype) -> None:
    """Keys and values that differ in nothing but their scales."""
    num_keys = 40
    ones = torch.full((num_keys, 1, 16), 127, dtype=torch.int8)
    k = Quantized(ones, torch.linspace(-0.01, 0.01, num_keys)[:, None])
    v = Quantized(ones, torch.linspace(1.0, 3.0, num_keys)[:, None])
    q = torch.ones(1, 1, 16, dtype=dtype)
    (out,) = attend([q], [k], [v], 0, 0.25)
    exact = reference.attention(q.double(), k.restored(), v.restored(), 0, 0.25)
    assert_close(out, exact, rounding(exact, dtype), rtol=2e-6)


def test_attention_over_zeros_is_zero(dtype: torch.dtype) -> None:
    zeros = reference.quantize(torch.zeros(300, 1, 32))
    (out,) = attend([randn(2, 2, 32, dtype=dtype)], [zeros], [zeros], 0, 1.0)
    assert_bitwise_equal(out, torch.zeros(2, 64, dtype=dtype))


@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("key", [0, 15, 16, 255, 256, 299])
def test_attention_over_a_spoilt_scale_is_nan_where_it_is_seen(
    which: str, key: int, dtype: torch.dtype
) -> None:
    heads = {name: random_heads(300, 2, 32) for name in ("keys", "values")}
    heads[which].scales[key, 1] = math.nan
    q = randn(300, 4, 32, dtype=dtype)
    (out,) = attend([q], [heads["keys"]], [heads["values"]], 20, 0.2)
    seen = torch.zeros(300, 128, dtype=torch.bool)
    seen[key : key + 20, 64:] = True
    assert out.isnan().equal(seen)


def test_attention_of_a_nan_query_stays_in_its_row_and_head(dtype: torch.dtype) -> None:
    q, k, v = randn(5, 4, 32, dtype=dtype), random_heads(20, 2, 32), random_heads(20, 2, 32)
    (clean,) = attend([q], [k], [v], 0, 0.2)
    q[1, 2, 7] = math.nan
    (out,) = attend([q], [k], [v], 0, 0.2)
    assert out[1, 64:96].isnan().all()
    out[1, 64:96] = clean[1, 64:96]
    assert_bitwise_equal(out, clean)


def test_attention_over_int8_is_close_to_attention_over_floats(dtype: torch.dtype) -> None:
    """Half a step of 1/127 of a head's largest number, averaged over many."""
    k, v = randn(500, 2, 64), randn(500, 2, 64)
    q = randn(3, 4, 64, dtype=dtype)
    (out,) = attend([q], [reference.quantize(k)], [reference.quantize(v)], 0, 64**-0.5)
    exact = reference.attention(q.double(), k.double(), v.double(), 0, 64**-0.5)
    assert (out.double() - exact).norm() < 0.02 * exact.norm()
