"""`attention` on CUDA: its workspace, fp8 pages, and index tensors that nobody could look into."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from devices import BACKEND
from op_tensors import Paged, attention_workspace, i32, paginate, poisoned, starts_of
from phi3svc import ops
from phi3svc.ops import BlockSparse
from test_attention import EDGES, MIXED, sequences

pytestmark = pytest.mark.skipif(BACKEND == "cpu", reason="a CPU has none of it")

# (keys, queries). Where there are no more queries than sequences, one kernel has them all.
DECODES = [(700, 1), (1, 1), (256, 1), (257, 1), (1500, 1), (513, 1)]
UNEVEN = [(900, 5), (10, 0), (300, 1), (17, 0), (40, 0), (600, 0), (5, 0)]
CHUNKS = [(700, 90), (600, 1), (520, 4), (513, 17), (300, 300)]
SPARSE = BlockSparse(block_size=32, num_local_blocks=2, vertical_stride=3, head_step=1)


def attend(
    queries: list[Tensor],
    paged: Paged,
    window: int = 0,
    block_sparse: BlockSparse | None = None,
    workspace: Tensor | None = None,
    query_starts: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    q = torch.cat(queries)
    out = poisoned(len(q), q[0].numel(), dtype=q.dtype) if out is None else out
    ops.attention(
        q,
        paged.k_pages,
        paged.v_pages,
        paged.block_tables,
        starts_of([len(s) for s in queries]) if query_starts is None else query_starts,
        paged.context_lens,
        window,
        q.shape[-1] ** -0.5,
        out,
        block_sparse=block_sparse,
        workspace=attention_workspace(q, paged.block_tables) if workspace is None else workspace,
    )
    return out


@pytest.mark.parametrize("lens", [DECODES, UNEVEN, CHUNKS], ids=["decodes", "uneven", "chunks"])
@pytest.mark.parametrize("num_queries", [1, 3, 17])
@pytest.mark.parametrize("window", [0, 300])
def test_a_small_workspace_changes_no_bit(
    num_queries: int, lens: list[tuple[int, int]], window: int
) -> None:
    queries, keys, values = sequences(lens, 4, 2, 32, torch.bfloat16)
    paged = paginate(keys, values)
    whole = attend(queries, paged, window)
    workspace = attention_workspace(torch.cat(queries), paged.block_tables, num_queries)
    assert workspace is not None
    for _ in range(2):  # its counters are as they were
        assert_bitwise_equal(attend(queries, paged, window, workspace=workspace), whole)


@pytest.mark.parametrize("block_sparse", [None, SPARSE], ids=["dense", "sparse"])
def test_queries_in_any_sequences_have_the_bits_of_each_alone(
    block_sparse: BlockSparse | None, dtype: torch.dtype
) -> None:
    queries, keys, values = sequences(UNEVEN, 6, 2, 48, dtype)
    found = attend(queries, paginate(keys, values), block_sparse=block_sparse)
    alone = [
        attend([q[i : i + 1]], paginate([k[:end]], [v[:end]]), block_sparse=block_sparse)
        for q, k, v in zip(queries, keys, values, strict=True)
        for i, end in enumerate(range(len(k) - len(q) + 1, len(k) + 1))
    ]
    assert_bitwise_equal(found, torch.cat(alone))


def test_a_workspace_too_small_for_one_query_is_refused() -> None:
    queries, keys, values = sequences(DECODES, 2, 1, 32, torch.bfloat16)
    paged = paginate(keys, values)
    workspace = torch.zeros(1024, dtype=torch.uint8)
    with pytest.raises(ops.Error, match="workspace has 1024 bytes, expected at least"):
        attend(queries, paged, workspace=workspace)


@pytest.mark.parametrize(
    ("sizes", "culprit"),
    [
        ((-1, 32, 96, 256), "num_tokens"),
        ((1, 32, -96, 256), "head_dim"),
        ((1 << 30, 1 << 10, 128, 1 << 27), "table_len"),
    ],
)
def test_sizes_that_no_workspace_has_are_refused(
    sizes: tuple[int, int, int, int], culprit: str
) -> None:
    with pytest.raises(ops.Error, match=f"attention_workspace_bytes: {culprit} is "):
        ops.attention_workspace_bytes(*sizes)


@pytest.mark.parametrize("lens", [DECODES, [*MIXED, *EDGES]], ids=["decodes", "mixed"])
@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 96, 128])
def test_float8_pages_give_the_bits_of_their_numbers(
    head_dim: int, lens: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    queries, keys, values = sequences(lens, 3, 1, head_dim, dtype)
    float8, same = float8_pages(paginate(keys, values), dtype)
    assert_bitwise_equal(attend(queries, float8), attend(queries, same))


@pytest.mark.parametrize("block_sparse", [None, SPARSE], ids=["dense", "sparse"])
def test_float8_pages_with_nan_spoil_who_sees_it(
    block_sparse: BlockSparse | None, dtype: torch.dtype
) -> None:
    queries, keys, values = sequences([(200, 120), (330, 2)], 4, 2, 64, dtype)
    values[0][130, 0, 9] = math.nan
    keys[1][328, 1] = math.nan
    float8, same = float8_pages(paginate(keys, values), dtype)
    out = attend(queries, float8, block_sparse=block_sparse)
    expected = attend(queries, same, block_sparse=block_sparse)
    assert torch.equal(out.isnan(), expected.isnan())
    assert_bitwise_equal(out.nan_to_num(9.0), expected.nan_to_num(9.0))
    assert out.isnan().any()
    assert out[:50].isfinite().all()


def float8_pages(paged: Paged, dtype: torch.dtype) -> tuple[Paged, Paged]:
    """The pages rounded to fp8, and those numbers as the model's dtype."""
    k, v = (x.float().to(torch.float8_e4m3fn) for x in (paged.k_pages, paged.v_pages))
    return (
        replace(paged, k_pages=k, v_pages=v),
        replace(paged, k_pages=k.to(dtype), v_pages=v.to(dtype)),
    )


@pytest.mark.parametrize("entry", [-1, 1 << 30])
@pytest.mark.parametrize("block_sparse", [None, SPARSE], ids=["dense", "sparse"])
def test_a_bad_page_spoils_who_sees_it(
    block_sparse: BlockSparse | None, entry: int, dtype: torch.dtype
) -> None:
    queries, keys, values = sequences([(600, 1), (600, 40), (300, 3)], 4, 2, 32, dtype)
    paged = paginate(keys, values)
    clean = attend(queries, paged, block_sparse=block_sparse).clone()
    paged.block_tables[:2, 36] = entry  # keys 576 to 591; the 40 queries are from 560 on
    out = attend(queries, paged, block_sparse=block_sparse)
    sees = torch.tensor([True] + [position >= 576 for position in range(560, 600)] + [False] * 3)
    assert out[sees].isnan().all()
    assert_bitwise_equal(out[~sees], clean[~sees])


@pytest.mark.parametrize("context_len", [-1, 2, 16 * 100, 2**31 - 1])
def test_a_bad_context_length_spoils_its_rows(context_len: int, dtype: torch.dtype) -> None:
    queries, keys, values = sequences([(60, 1), (60, 3), (300, 200), (60, 1)], 2, 1, 32, dtype)
    paged = paginate(keys, values)
    clean = attend(queries, paged).clone()
    starts = starts_of([len(q) for q in queries]).tolist()
    for idx, (start, end) in enumerate(pairwise(starts)):
        rows = slice(start, end)
        context_lens = paged.context_lens.clone()
        context_lens[idx] = context_len
        out = attend(queries, replace(paged, context_lens=context_lens))
        if context_len == 2 and len(queries[idx]) == 1:
            continue  # a context as good as any
        assert out[rows].isnan().all()
        others = torch.ones(len(clean), dtype=torch.bool)
        others[rows] = False
        assert_bitwise_equal(out[others], clean[others])


@pytest.mark.parametrize(
    "starts",
    [[-5, 40, 20, 400], [0, 2**31 - 1, -(2**31), 7], [0, 80, 80, 80], [80, 80, 80, 80]],
    ids=str,
)
def test_starts_that_do_not_rise_touch_nothing_else(starts: list[int], dtype: torch.dtype) -> None:
    queries, keys, values = sequences([(60, 40), (60, 20), (300, 20)], 2, 1, 32, dtype)
    paged = paginate(keys, values)
    before = (paged.k_pages.clone(), paged.v_pages.clone())
    around = torch.full((8 + 80 + 8, 2 * 32), 7.0, dtype=dtype)
    out = attend(queries, paged, query_starts=i32(*starts), out=around[8:-8])
    assert (around[:8] == 7).all()
    assert (around[-8:] == 7).all()
    is_theirs = torch.zeros(80, dtype=torch.bool)
    for start, end in pairwise(min(max(start, 0), 80) for start in starts):
        is_theirs[start:end] = True
    others = out[~is_theirs]
    assert (others.isnan() | (others == 7)).all()
    assert_bitwise_equal(paged.k_pages, before[0])
    assert_bitwise_equal(paged.v_pages, before[1])
