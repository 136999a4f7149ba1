"""`attention` of prompts by either of its CUDA kernels: mma.sync and WGMMA.

In the emulator both instructions round alike, and so the kernels must have the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from op_tensors import Paged, attention_workspace, paginate, poisoned, seen_keys, starts_of
from phi3svc import ops
from phi3svc.ops import BlockSparse
from test_attention import sequences

pytestmark = pytest.mark.skipif(
    ops.build_info()["cuda"] != "emulated", reason="on hardware the instructions may differ"
)

# (keys, queries): one to many tiles of 64 and 128 queries around the edges of key tiles and spans,
# and sequences that the decode kernel has.
LENS = [
    [(64, 64)],
    [(129, 129), (1, 1), (63, 30)],
    [(257, 200), (300, 1), (70, 17)],
    [(700, 130), (513, 65)],
]


def paged(
    lens: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    kv_dtype: torch.dtype,
    window: int = 0,
    block_sparse: BlockSparse | None = None,
    spoil: Callable[[list[Tensor]], object] = len,
) -> tuple[list[Tensor], Paged]:
    """Queries, and their keys and values; what no query sees is NaN."""
    queries, keys, values = sequences(lens, *heads, head_dim, torch.bfloat16)
    spoil(values)
    visible = [
        seen_keys(len(k), *q.shape[:2], k.shape[1], window, block_sparse)
        for q, k in zip(queries, keys, strict=True)
    ]
    cache = paginate(keys, values, visible)
    return queries, replace(
        cache, k_pages=cache.k_pages.to(kv_dtype), v_pages=cache.v_pages.to(kv_dtype)
    )


def run(
    policy: str,
    queries: list[Tensor],
    cache: Paged,
    window: int = 0,
    block_sparse: BlockSparse | None = None,
) -> Tensor:
    q = torch.cat(queries)
    out = poisoned(len(q), q[0].numel(), dtype=q.dtype)
    ops.set_kernel_policy(policy)
    try:
        ops.attention(
            q,
            cache.k_pages,
            cache.v_pages,
            cache.block_tables,
            starts_of([len(s) for s in queries]),
            cache.context_lens,
            window,
            q.shape[-1] ** -0.5,
            out,
            block_sparse=block_sparse,
            workspace=attention_workspace(q, cache.block_tables),
        )
    finally:
        ops.set_kernel_policy("deterministic")
    return out


def check(
    queries: list[Tensor],
    cache: Paged,
    window: int = 0,
    block_sparse: BlockSparse | None = None,
) -> Tensor:
    out = run("free", queries, cache, window, block_sparse)
    assert_bitwise_equal(out, run("deterministic", queries, cache, window, block_sparse))
    return out


@pytest.fixture(params=[torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "fp8"])
def kv_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("lens", LENS, ids=str)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_kernels_agree(lens: list[tuple[int, int]], head_dim: int, kv_dtype: torch.dtype) -> None:
    out = check(*paged(lens, (2, 1), head_dim, kv_dtype))
    assert out.isfinite().all()


@pytest.mark.parametrize("window", [1, 63, 64, 100, 256, 400])
def test_kernels_agree_in_a_sliding_window(window: int, kv_dtype: torch.dtype) -> None:
    cache = paged([(700, 200), (90, 90)], (2, 1), 96, kv_dtype, window)
    assert check(*cache, window).isfinite().all()


@pytest.mark.parametrize(
    "pattern", [BlockSparse(16, 1, 2, 0), BlockSparse(64, 2, 4, 1), BlockSparse(256, 1, 2, 1)]
)
def test_kernels_agree_on_sparse_blocks(pattern: BlockSparse, kv_dtype: torch.dtype) -> None:
    cache = paged([(700, 200), (150, 150)], (2, 1), 64, kv_dtype, block_sparse=pattern)
    assert check(*cache, block_sparse=pattern).isfinite().all()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_who_sees_them(
    number: float, kv_dtype: torch.dtype
) -> None:
    def spoil(values: list[Tensor]) -> None:
        values[0][70, 0, 5] = number
        values[0][130, 1, 95] = number

    queries, cache = paged([(200, 200)], (2, 2), 96, kv_dtype, spoil=spoil)
    out = check(queries, cache).view(200, 2, 96)
    spoilt = torch.zeros(200, 2, 96, dtype=torch.bool)
    if kv_dtype == torch.bfloat16 or math.isnan(number):  # fp8 has no infinity
        spoilt[70:, 0, 5] = True
        spoilt[130:, 1, 95] = True
    assert torch.equal(~out.isfinite(), spoilt)


@pytest.mark.parametrize("entry", [-1, 1 << 30])
def test_a_bad_page_spoils_who_sees_it(entry: int, kv_dtype: torch.dtype) -> None:
    queries, cache = paged([(200, 200), (150, 150)], (2, 1), 64, kv_dtype)
    cache.block_tables[0, 5] = entry
    out = check(queries, cache)
    assert out[80:200].isnan().all()
    assert out[:80].isfinite().all()
    assert out[200:].isfinite().all()


def test_a_context_beyond_the_table_spoils_its_rows() -> None:
    queries, cache = paged([(100, 100), (80, 80)], (2, 1), 64, torch.bfloat16)
    cache.context_lens[0] = 16 * cache.block_tables.shape[1] + 1
    out = check(queries, cache)
    assert out[:100].isnan().all()
    assert out[100:].isfinite().all()
