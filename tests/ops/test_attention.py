"""`attention` over scattered, poisoned pages against float64, and its exact cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_accurate, assert_bitwise_equal, assert_close
from devices import DEVICE
from op_tensors import (
    Guarded,
    attention_workspace,
    dot_bound,
    i32,
    paginate,
    poisoned,
    randn,
    rounding,
    seen_keys,
    starts_of,
)
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")

# (keys, queries) of the sequences in one call: decodes, chunks and whole prompts around page edges
# and around the edges of the 256-key spans.
MIXED = [(1, 1), (15, 1), (16, 16), (17, 3), (33, 33), (255, 1), (256, 2), (257, 1), (40, 7)]
EDGES = [(n, 1) for n in (15, 16, 17, 255, 256, 257, 511, 512, 513)] + [(513, 9), (272, 20)]


def sequences(
    lens: list[tuple[int, int]],
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Random queries, keys and values for each (keys, queries)."""
    queries = [randn(q, num_heads, head_dim, dtype=dtype) for _, q in lens]
    keys = [randn(n, num_kv_heads, head_dim, dtype=dtype) for n, _ in lens]
    values = [randn(n, num_kv_heads, head_dim, dtype=dtype) for n, _ in lens]
    return queries, keys, values


def run(
    queries: list[Tensor],
    keys: list[Tensor],
    values: list[Tensor],
    window: int,
    scale: float,
    block_sparse: ops.BlockSparse | None = None,
) -> list[Tensor]:
    """The op's output per sequence; what no query may see is poisoned."""
    visible = [
        seen_keys(len(k), *q.shape[:2], k.shape[1], window, block_sparse)
        for q, k in zip(queries, keys, strict=True)
    ]
    paged = paginate(keys, values, visible)
    q = torch.cat(queries)
    buffer = Guarded(len(q), q[0].numel(), dtype=q.dtype)
    ops.attention(
        q,
        paged.k_pages,
        paged.v_pages,
        paged.block_tables,
        starts_of([len(s) for s in queries]),
        paged.context_lens,
        window,
        scale,
        buffer.out,
        block_sparse=block_sparse,
        workspace=attention_workspace(q, paged.block_tables),
    )
    return list(buffer.checked().split([len(s) for s in queries]))


def bound(q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
    """How far float32 scores and weights can move a weighted mean of the values.

    A score off by e changes every weight by a factor e^±e, hence the mean by 2e·max|v|; exp and the
    sums add some roundings of their own. On CUDA the weights meet bfloat16 values as bfloat16.
    """
    score_error = scale * dot_bound(q.flatten(0, 1), k.flatten(0, 1)).max()
    largest_score = scale * (q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max())
    relative = 2 * score_error + 2.0**-24 * (64 + 4 * largest_score) + weight_rounding(v)
    return float(relative * v.double().abs().max())


def weight_rounding(v: Tensor) -> float:
    rounds = ops.backend(v.device) == "cuda" and v.dtype == torch.bfloat16
    return 2.0**-9 if rounds else 0.0


def check(
    lens: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    window: int = 0,
    block_sparse: ops.BlockSparse | None = None,
) -> None:
    scale = head_dim**-0.5
    settings = (window, scale, block_sparse)
    queries, keys, values = sequences(lens, *heads, head_dim, dtype)
    outs = run(queries, keys, values, *settings)
    for out, q, k, v in zip(outs, queries, keys, values, strict=True):
        exact = reference.attention(q.double(), k.double(), v.double(), *settings)
        assert_close(out, exact, bound(q, k, v, scale) + rounding(exact, dtype))
        if dtype == torch.bfloat16:
            assert_accurate(out, exact, reference.attention(q, k, v, *settings))


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 96, 128])
@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (8, 2)], ids=["group1", "group3", "group4"])
def test_attention_of_mixed_sequences(
    head_dim: int, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    check(MIXED, heads, head_dim, dtype)


@pytest.mark.parametrize(
    ("heads", "head_dim"),
    [
        ((50, 1), 16),
        pytest.param((8, 8), 256, marks=pytest.mark.cpu_only),  # up to 128 on CUDA
        ((40, 10), 128),
    ],
)
def test_attention_of_unusual_heads(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> None:
    check([(33, 5), (17, 1), (260, 2)], heads, head_dim, dtype)


@pytest.mark.parametrize("window", [1, 5, 16, 255, 256, 257, 1000])
def test_attention_in_a_sliding_window(window: int, dtype: torch.dtype) -> None:
    check([*MIXED, *EDGES], (3, 1), 32, dtype, window)


def test_attention_at_page_and_span_edges(dtype: torch.dtype) -> None:
    check(EDGES, (2, 1), 48, dtype)


@pytest.mark.parametrize("num_queries", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_attention_of_any_number_of_queries(num_queries: int, dtype: torch.dtype) -> None:
    check([(num_queries, num_queries), (num_queries + 250, num_queries)], (4, 2), 32, dtype)


def test_attention_of_no_sequence_does_nothing(dtype: torch.dtype) -> None:
    k_shape, v_shape = ops.kv_cache_shapes(2, 1, 32, dtype, DEVICE)
    k_pages, v_pages = poisoned(*k_shape, dtype=dtype), poisoned(*v_shape, dtype=dtype)
    out = torch.empty(0, 64, dtype=dtype)
    tables = torch.empty(0, 4, dtype=torch.int32)
    q = torch.empty(0, 2, 32, dtype=dtype)
    ops.attention(
        q,
        k_pages,
        v_pages,
        tables,
        i32(0),
        i32(),
        0,
        1.0,
        out,
        workspace=attention_workspace(q, tables),
    )


@pytest.mark.parametrize("window", [0, 5, 257])
def test_attention_over_constant_values_is_that_constant(window: int, dtype: torch.dtype) -> None:
    queries, keys, values = sequences([*MIXED, *EDGES], 3, 1, 32, dtype)
    values = [torch.full_like(v, 1.5) for v in values]
    for out in run(queries, keys, values, window, 32**-0.5):
        # Weights over their own sum: the two sums may round differently in float32.
        tolerance = 4e-6 if dtype == torch.float32 else 0.0
        assert_close(out, torch.full_like(out, 1.5), atol=tolerance)


def test_attention_with_equal_scores_is_the_mean(dtype: torch.dtype) -> None:
    lens = [(16, 1), (256, 1), (512, 1), (1024, 1)]
    queries, keys, values = sequences(lens, 2, 1, 32, dtype)
    queries = [torch.zeros_like(q) for q in queries]
    values = [torch.randint(-4, 5, v.shape).to(dtype) for v in values]
    for out, v in zip(run(queries, keys, values, 0, 1.0), values, strict=True):
        # Integers, divided by a power of two: exact in float32.
        mean = v.double().mean(0).repeat(1, 2)
        assert_bitwise_equal(out + 0.0, (mean + 0.0).to(dtype))


def test_attention_picks_the_key_that_stands_out(dtype: torch.dtype) -> None:
    """With one score far above the others the output is that key's value, bit for bit."""
    num_keys = 600
    for chosen in (0, 15, 16, 255, 256, 257, 511, 512, 599):
        q = torch.ones(1, 1, 32, dtype=dtype)
        k = torch.full((num_keys, 1, 32), -8.0, dtype=dtype)
        k[chosen] = 8.0
        v = randn(num_keys, 1, 32, dtype=dtype)
        (out,) = run([q], [k], [v], 0, 1.0)
        assert_bitwise_equal(out, v[chosen].flatten()[None])


@pytest.mark.parametrize("slope", [-0.5, -0.01, 0.01, 0.5])
def test_attention_merges_spans_of_very_different_scores(slope: float, dtype: torch.dtype) -> None:
    """Scores that rise or fall along the context move the running maximum in every span."""
    num_keys, num_queries, head_dim = 800, 5, 32
    q = torch.zeros(num_queries, 2, head_dim, dtype=dtype)
    q[..., 0] = 1.0
    k = randn(num_keys, 1, head_dim, dtype=dtype)
    k[:, 0, 0] = (slope * torch.arange(num_keys)).to(dtype)
    v = randn(num_keys, 1, head_dim, dtype=dtype)
    (out,) = run([q], [k], [v], 0, 1.0)
    exact = reference.attention(q.double(), k.double(), v.double(), 0, 1.0)
    assert_close(out, exact, bound(q, k, v, 1.0) + rounding(exact, dtype))


def test_attention_weighs_unlikely_keys_accurately(dtype: torch.dtype) -> None:
    """Weights down to e^-80 on values up to e^80: every key gives as much to the sum."""
    num_keys, head_dim = 81, 16
    score = -torch.arange(num_keys, dtype=torch.float64)
    q, k = torch.zeros(1, 1, head_dim, dtype=dtype), torch.zeros(num_keys, 1, head_dim, dtype=dtype)
    q[..., 0], k[:, 0, 0] = 1.0, score
    v = ((-score).exp()[:, None, None] * (1 + torch.rand(num_keys, 1, head_dim))).to(dtype)
    (out,) = run([q], [k], [v], 0, 1.0)
    exact = reference.attention(q.double(), k.double(), v.double(), 0, 1.0)
    assert_close(out, exact, rounding(exact, dtype), rtol=32 * 2.0**-24)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_attention_survives_scores_of_any_size(scale: float, dtype: torch.dtype) -> None:
    queries, keys, values = sequences([(300, 4)], 2, 1, 64, dtype)
    (out,) = run(queries, keys, values, 0, scale)
    q, k, v = queries[0], keys[0], values[0]
    exact = reference.attention(q.double(), k.double(), v.double(), 0, scale)
    assert_close(out, exact, bound(q, k, v, scale) + rounding(exact, dtype))


def test_attention_of_a_nan_query_stays_in_its_row_and_head(dtype: torch.dtype) -> None:
    queries, keys, values = sequences([(20, 3), (9, 2)], 4, 2, 32, dtype)
    clean = torch.cat(run(queries, keys, values, 0, 0.2))
    queries[0][1, 2, 7] = math.nan
    out = torch.cat(run(queries, keys, values, 0, 0.2))
    assert out[1, 64:96].isnan().all()
    out[1, 64:96] = clean[1, 64:96]
    assert_bitwise_equal(out, clean)
