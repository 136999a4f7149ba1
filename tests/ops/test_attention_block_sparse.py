"""`attention` with a block-sparse pattern: what each head sees; it touches nothing else."""

from __future__ import annotations

import math

import pytest
import torch

import reference
import test_attention
import test_attention_int8
from compare import assert_bitwise_equal
from op_tensors import paginate, randn, starts_of
from phi3svc import ops
from phi3svc.ops import BlockSparse

pytestmark = pytest.mark.usefixtures("gemm_isa")

PHI3_SMALL = BlockSparse(block_size=64, num_local_blocks=16, vertical_stride=8, head_step=1)
PATTERNS = [
    BlockSparse(16, 1, 2, 0),
    BlockSparse(16, 3, 5, 1),
    BlockSparse(32, 2, 3, 2),
    BlockSparse(64, 2, 4, 1),
    BlockSparse(64, 1, 1000, 0),  # local blocks alone
    BlockSparse(128, 1, 3, 7),
    BlockSparse(256, 1, 2, 1),
]
KV = ["model", pytest.param("int8", marks=pytest.mark.cpu_only)]
# (keys, queries): decodes, chunks and prompts around the edges of pages, blocks and spans.
LENS = [(1, 1), (17, 17), (64, 1), (65, 3), (130, 9), (257, 2), (530, 20), (290, 290)]


def pattern_id(pattern: BlockSparse) -> str:
    return "-".join(map(str, vars(pattern).values()))


@pytest.fixture(params=PATTERNS, ids=pattern_id)
def pattern(request: pytest.FixtureRequest) -> BlockSparse:
    found: BlockSparse = request.param
    return found


@pytest.mark.parametrize("heads", [(3, 1), (8, 2)], ids=["group3", "group4"])
@pytest.mark.parametrize("kv", KV)
def test_attention_of_mixed_sequences(
    heads: tuple[int, int], kv: str, pattern: BlockSparse, dtype: torch.dtype
) -> None:
    module = test_attention_int8 if kv == "int8" else test_attention
    module.check(LENS, heads, 32, dtype, block_sparse=pattern)


@pytest.mark.parametrize("heads", [(32, 8), (16, 2)])
@pytest.mark.parametrize("kv", KV)
def test_attention_as_phi_3_small_has_it(
    heads: tuple[int, int], kv: str, dtype: torch.dtype
) -> None:
    """Beyond 16 blocks, where the pattern begins to leave something out."""
    module = test_attention_int8 if kv == "int8" else test_attention
    module.check([(1024, 1), (1025, 3), (1700, 1)], heads, 16, dtype, block_sparse=PHI3_SMALL)


@pytest.mark.parametrize(
    ("heads", "head_dim"),
    [
        ((50, 1), 16),
        pytest.param((2, 2), 256, marks=pytest.mark.cpu_only),  # up to 128 on CUDA
        ((10, 2), 48),
        ((1, 1), 32),
    ],
)
def test_attention_of_unusual_heads(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> None:
    lens = [(33, 5), (17, 1), (260, 30)]
    test_attention.check(lens, heads, head_dim, dtype, block_sparse=BlockSparse(16, 2, 3, 1))


@pytest.mark.parametrize("num_queries", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33])
def test_attention_of_any_number_of_queries(num_queries: int, dtype: torch.dtype) -> None:
    lens = [(num_queries, num_queries), (num_queries + 250, num_queries)]
    test_attention.check(lens, (4, 2), 32, dtype, block_sparse=BlockSparse(32, 2, 3, 1))


def blocks_seen(head: int, position: int, pattern: BlockSparse) -> list[int]:
    """By the op: which dims of the mean of one-hot values are not zero."""
    num_keys, head_dim = position + 1, 32
    block = torch.arange(num_keys) // pattern.block_size
    values = torch.nn.functional.one_hot(block, head_dim).float()[:, None]
    queries = torch.zeros(1, 16, head_dim)
    (out,) = test_attention.run([queries], [values], [values], 0, 1.0, pattern)
    return out.view(16, head_dim)[head].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("head", "block", "vertical"),
    [(0, 20, []), (7, 20, [0]), (0, 25, [7]), (1, 25, [6]), (7, 25, [0, 8]), (8, 25, [7])],
)
def test_the_blocks_that_phi_3_small_sees(head: int, block: int, vertical: list[int]) -> None:
    """Written out: the last 16, and of the earlier ones every eighth, shifted head by head."""
    local = list(range(block - 15, block + 1))
    for position in (64 * block, 64 * block + 63):
        assert blocks_seen(head, position, PHI3_SMALL) == vertical + local


@pytest.mark.parametrize("head", [0, 9])
def test_step_0_gives_all_heads_one_pattern(head: int) -> None:
    assert blocks_seen(head, 16 * 20, BlockSparse(16, 2, 5, 0)) == [4, 9, 14, 19, 20]


@pytest.mark.parametrize("num_local_blocks", [7, 2**31 - 1])
@pytest.mark.parametrize("kv", KV)
def test_where_everything_is_seen_the_bits_are_the_dense_ones(
    num_local_blocks: int, kv: str, dtype: torch.dtype
) -> None:
    lens = [(1, 1), (17, 17), (33, 5), (300, 1), (7 * 64, 9), (400, 400)]
    pattern = BlockSparse(64, num_local_blocks, 8, 1)
    queries, keys, values = test_attention.sequences(lens, 6, 2, 48, dtype)
    if kv == "int8":
        attend = test_attention_int8.attend
        quantized = [[reference.quantize(x.float()) for x in part] for part in (keys, values)]
        found = attend(queries, *quantized, 0, 0.2, pattern)
        dense = attend(queries, *quantized, 0, 0.2)
    else:
        found = test_attention.run(queries, keys, values, 0, 0.2, pattern)
        dense = test_attention.run(queries, keys, values, 0, 0.2)
    for sparse_out, dense_out in zip(found, dense, strict=True):
        assert_bitwise_equal(sparse_out, dense_out)


@pytest.mark.parametrize("num_queries", [1, 40])
@pytest.mark.parametrize("which", ["keys", "values"])
def test_a_spoilt_block_is_felt_by_those_who_see_it_alone(
    num_queries: int, which: str, pattern: BlockSparse, dtype: torch.dtype
) -> None:
    """Rows of one tile, heads that share the kv head: each reads its own blocks."""
    num_keys, num_heads, head_dim = 600, 4, 32
    queries, keys, values = test_attention.sequences(
        [(num_keys, num_queries)], num_heads, 1, head_dim, dtype
    )
    (clean,) = test_attention.run(queries, keys, values, 0, 0.2, pattern)
    sees = reference.visible(num_keys, num_queries, num_heads, 0, pattern)
    for block in (0, 1, num_keys // pattern.block_size - 1, num_keys // pattern.block_size):
        spoilt = slice(block * pattern.block_size, (block + 1) * pattern.block_size)
        poisoned = {"keys": keys[0].clone(), "values": values[0].clone()}
        poisoned[which][spoilt] = math.nan
        (out,) = test_attention.run(queries, *([x] for x in poisoned.values()), 0, 0.2, pattern)
        feels = sees[:, :, spoilt].any(-1).T  # [t, H]
        by_head = out.view(num_queries, num_heads, head_dim)
        assert by_head.isnan().equal(feels[..., None].expand_as(by_head))
        rest = ~feels
        assert_bitwise_equal(by_head[rest], clean.view_as(by_head)[rest])


@pytest.mark.cpu_only
@pytest.mark.parametrize("num_queries", [1, 5, 100])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_a_page_id_is_checked_iff_a_query_sees_the_page(
    num_queries: int, num_heads: int, pattern: BlockSparse
) -> None:
    num_keys, head_dim = 600, 16
    keys = randn(num_keys, 1, head_dim)
    paged = paginate([keys], [keys])
    q = randn(num_queries, num_heads, head_dim)
    starts, out = starts_of([num_queries]), torch.zeros(num_queries, num_heads * head_dim)
    sees = reference.visible(num_keys, num_queries, num_heads, 0, pattern).any((0, 1))
    for page, is_seen in enumerate(part.any() for part in sees.split(ops.PAGE_SIZE)):
        tables = paged.block_tables.clone()
        tables[0, page] = -1
        args = (q, paged.k_pages, paged.v_pages, tables, starts, paged.context_lens, 0, 0.2, out)
        if is_seen:
            with pytest.raises(ops.Error, match=rf"block_tables\[0, {page}\] is -1"):
                ops.attention(*args, block_sparse=pattern)
        else:
            ops.attention(*args, block_sparse=pattern)
            assert out.isfinite().all()


@pytest.mark.parametrize("chunk_lens", [[1] * 40, [33, 1, 6], [7, 9, 24]], ids=["1", "33", "7"])
def test_chunks_and_page_ids_do_not_change_a_row(
    chunk_lens: list[int], pattern: BlockSparse, dtype: torch.dtype
) -> None:
    """The last 40 queries of a prompt, at once and piece by piece, on other pages."""
    num_keys, start = 530, 490
    (q,), (k,), (v,) = test_attention.sequences([(num_keys, 40)], 6, 2, 48, dtype)
    (whole,) = test_attention.run([q], [k], [v], 0, 0.2, pattern)
    parts = []
    for queries in q.split(chunk_lens):
        start += len(queries)
        parts += test_attention.run([queries], [k[:start]], [v[:start]], 0, 0.2, pattern)
    assert_bitwise_equal(torch.cat(parts), whole)
