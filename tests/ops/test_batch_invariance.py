"""A row's bits do not depend on the other rows, on threads, on memory: the heart of replay.

Every op that works row by row is run over the same rows whole, one by one, in any slice and order,
beside poisoned neighbours, from misaligned memory and on any number of threads.
`test_chunk_invariance` does the same for prompts, pages and whole layers.

Sizes are odd on purpose, and large enough that several threads really get work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal
from devices import BACKEND, DEVICE
from op_tensors import (
    Guarded,
    attention_workspace,
    misaligned,
    poisoned,
    randn,
    sample_workspace,
)
from phi3svc import ops
from weight_formats import input_of, rows_for

pytestmark = pytest.mark.usefixtures("gemm_isa")

EPS = 1e-5
NUM_ROWS = 70
"""Enough rows for every row block, several times over."""


@dataclass(frozen=True)
class RowOp:
    """An op as a function of rows: inputs and outputs all have the rows as their first dim."""

    inputs: tuple[Tensor, ...]
    apply: Callable[..., tuple[Tensor, ...]]

    def rows(self, index: Tensor) -> tuple[Tensor, ...]:
        return self.apply(*(t[index] for t in self.inputs))


def guarded(*shape: int, dtype: torch.dtype) -> Tensor:
    return Guarded(*shape, dtype=dtype).out


def embedding(dtype: torch.dtype, scale: float = 1.0, format: str | None = None) -> RowOp:
    table = ops.pack_linear(randn(50, 96, dtype=dtype), format)

    def apply(token_ids: Tensor) -> tuple[Tensor, ...]:
        out = guarded(len(token_ids), 96, dtype=torch.float32)
        ops.embedding(token_ids, table, out, scale)
        return (out,)

    return RowOp((torch.randint(50, (NUM_ROWS,), dtype=torch.int32),), apply)


def rms_norm(dtype: torch.dtype) -> RowOp:
    weight = randn(3001, dtype=dtype)

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        out = guarded(len(h), 3001, dtype=dtype)
        ops.rms_norm(h, weight, EPS, out)
        return (out,)

    return RowOp((randn(NUM_ROWS, 3001),), apply)


def embedding_scaled(dtype: torch.dtype) -> RowOp:
    return embedding(dtype, 0.3)


def rms_norm_quantized(dtype: torch.dtype) -> RowOp:
    weight = randn(3001, dtype=dtype)

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        out = rows_for(len(h), 3001).out
        ops.rms_norm(h, weight, EPS, out)
        return (numbers_of(out),)

    return RowOp((randn(NUM_ROWS, 3001),), apply)


def numbers_of(rows: Tensor) -> Tensor:
    """Quantized rows without what their headers leave alone."""
    return torch.cat([rows[:, :8], rows[:, 64:]], dim=1)


def layer_norm_quantized(dtype: torch.dtype) -> RowOp:
    weight, bias = randn(3001, dtype=dtype), randn(3001, dtype=dtype)

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        out = rows_for(len(h), 3001).out
        ops.layer_norm(h, weight, bias, EPS, out)
        return (numbers_of(out),)

    return RowOp((3 + randn(NUM_ROWS, 3001),), apply)


def quantize(dtype: torch.dtype) -> RowOp:
    def apply(x: Tensor) -> tuple[Tensor, ...]:
        out = rows_for(len(x), 3001).out
        ops.quantize(x, out)
        return (numbers_of(out),)

    return RowOp((randn(NUM_ROWS, 3001, dtype=dtype),), apply)


def layer_norm(dtype: torch.dtype) -> RowOp:
    weight, bias = randn(3001, dtype=dtype), randn(3001, dtype=dtype)

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        out = guarded(len(h), 3001, dtype=dtype)
        ops.layer_norm(h, weight, bias, EPS, out)
        return (out,)

    return RowOp((3 + randn(NUM_ROWS, 3001),), apply)


def linear(
    dtype: torch.dtype,
    width: int = 201,
    out_features: int = 16 * 9 + 5,
    format: str | None = None,
) -> RowOp:
    weight = ops.pack_linear(randn(out_features, width, dtype=dtype), format)
    bias = randn(out_features, dtype=dtype)

    def apply(x: Tensor) -> tuple[Tensor, ...]:
        out = guarded(len(x), out_features, dtype=dtype)
        ops.linear(input_of(x, weight.format), weight, out, bias)
        return (out,)

    return RowOp((randn(NUM_ROWS, width, dtype=dtype),), apply)


def linear_wide(dtype: torch.dtype) -> RowOp:
    """Wide enough to be cut into blocks along k, if anything is."""
    return linear(dtype, width=2101, out_features=16 * 5 + 5)


def linear_int8(dtype: torch.dtype) -> RowOp:
    """Cut into blocks along k, as those below."""
    return linear(dtype, width=1201, format="int8")


def linear_int4_g32(dtype: torch.dtype) -> RowOp:
    return linear(dtype, width=1201, format="int4-g32")


def linear_int4_g32_min(dtype: torch.dtype) -> RowOp:
    return linear(dtype, width=1201, format="int4-g32-min")


def linear_int4_g128(dtype: torch.dtype) -> RowOp:
    return linear(dtype, width=1201, format="int4-g128")


def linear_int4_g128_min(dtype: torch.dtype) -> RowOp:
    return linear(dtype, width=1201, format="int4-g128-min")


def linear_fp8(dtype: torch.dtype) -> RowOp:
    return linear(dtype, width=1201, format="fp8")


def linear_accumulate(dtype: torch.dtype) -> RowOp:
    weight = ops.pack_linear(randn(75, 131, dtype=dtype))

    def apply(x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        out = guarded(*h.shape, dtype=torch.float32).copy_(h)
        ops.linear(x, weight, out, accumulate=True)
        return (out,)

    return RowOp((randn(NUM_ROWS, 131, dtype=dtype), randn(NUM_ROWS, 75)), apply)


def mlp(
    dtype: torch.dtype,
    is_small: bool = False,
    gate_up_format: str | None = None,
    down_format: str | None = None,
) -> RowOp:
    """As Phi-3 has it, or Phi-3-small."""
    gate_up = ops.pack_gate_up(randn(2 * 101, 65, dtype=dtype), gate_up_format)
    down = ops.pack_linear(randn(65, 101, dtype=dtype), down_format)
    biases = [randn(202, dtype=dtype), randn(65, dtype=dtype)] if is_small else []

    def apply(x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        act, out = guarded(len(x), 101, dtype=dtype), guarded(len(x), 65, dtype=torch.float32)
        out.copy_(h)
        ops.mlp(
            input_of(x, gate_up.format),
            gate_up,
            down,
            act,
            out,
            *biases,
            gegelu_limit=7.0 if is_small else None,
            quantized_act=rows_for(len(x), 101).out if down.is_integer else None,
        )
        return act, out

    return RowOp((randn(NUM_ROWS, 65, dtype=dtype), randn(NUM_ROWS, 65)), apply)


def mlp_gegelu(dtype: torch.dtype) -> RowOp:
    return mlp(dtype, is_small=True)


def mlp_int4_into_int8(dtype: torch.dtype) -> RowOp:
    return mlp(dtype, gate_up_format="int4-g32-min", down_format="int8")


def mlp_int4_into_floats(dtype: torch.dtype) -> RowOp:
    return mlp(dtype, is_small=True, gate_up_format="int4-g128")


def mlp_fp8(dtype: torch.dtype) -> RowOp:
    return mlp(dtype, gate_up_format="fp8", down_format="fp8")


def lm_head(dtype: torch.dtype, is_small: bool = False, format: str | None = None) -> RowOp:
    """As Phi-3 has it, or Phi-3-small."""
    norm_weight = randn(64, dtype=dtype)
    weight = ops.pack_linear(randn(130, 64, dtype=dtype), format)
    biases = [randn(64, dtype=dtype), randn(130, dtype=dtype)] if is_small else []

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        normed, logits = (
            normed_for(len(h), weight, dtype),
            guarded(len(h), 130, dtype=torch.float32),
        )
        rows = torch.arange(len(h), dtype=torch.int32)
        scale = 0.3 if is_small else 1.0
        ops.lm_head(h, rows, norm_weight, EPS, weight, normed, logits, *biases, scale=scale)
        return numbers_of(normed) if weight.is_integer else normed, logits

    return RowOp((randn(NUM_ROWS, 64),), apply)


def normed_for(num_rows: int, weight: ops.PackedLinear, dtype: torch.dtype) -> Tensor:
    if weight.is_integer:
        return rows_for(num_rows, weight.in_features).out
    return guarded(num_rows, weight.in_features, dtype=dtype)


def lm_head_with_biases(dtype: torch.dtype) -> RowOp:
    return lm_head(dtype, is_small=True)


def lm_head_int8(dtype: torch.dtype) -> RowOp:
    return lm_head(dtype, is_small=True, format="int8")


def classify_head(dtype: torch.dtype, is_small: bool = False) -> RowOp:
    """As Phi-3 has it, or Phi-3-small."""
    norm_weight, bias = randn(64, dtype=dtype), randn(9, dtype=dtype)
    weight = ops.pack_linear(randn(9, 64, dtype=dtype))
    norm_bias = randn(64, dtype=dtype) if is_small else None

    def apply(h: Tensor) -> tuple[Tensor, ...]:
        normed, scores = guarded(len(h), 64, dtype=dtype), guarded(len(h), 9, dtype=torch.float32)
        rows = torch.arange(len(h), dtype=torch.int32)
        ops.classify_head(h, rows, norm_weight, EPS, weight, bias, normed, scores, norm_bias)
        return normed, scores

    return RowOp((randn(NUM_ROWS, 64),), apply)


def classify_head_layer_norm(dtype: torch.dtype) -> RowOp:
    return classify_head(dtype, is_small=True)


def qkv_rope(
    dtype: torch.dtype,
    has_bias: bool = False,
    format: str | None = None,
    kv_dtype: torch.dtype | None = None,
) -> RowOp:
    num_heads, num_kv_heads, head_dim, width, num_pages = 6, 2, 48, 100, 5
    num_outputs = (num_heads + 2 * num_kv_heads) * head_dim
    rotary_dim = 32
    weight = ops.pack_qkv(
        randn(num_outputs, width, dtype=dtype), num_heads, num_kv_heads, rotary_dim, format
    )
    bias = randn(num_outputs, dtype=dtype) if has_bias else None
    table = randn(2, 300, rotary_dim // 2, 2)

    def apply(x: Tensor, positions: Tensor, rope_sets: Tensor) -> tuple[Tensor, ...]:
        q = guarded(len(x), num_heads, head_dim, dtype=dtype)
        shapes = ops.kv_cache_shapes(num_pages, num_kv_heads, head_dim, kv_dtype or dtype, DEVICE)
        k_pages, v_pages = (poisoned(*shape, dtype=kv_dtype or dtype) for shape in shapes)
        slots = torch.randperm(num_pages * ops.PAGE_SIZE, dtype=torch.int32)[: len(x)]
        ops.qkv_rope(
            input_of(x, weight.format),
            weight,
            positions,
            rope_sets,
            table,
            slots,
            k_pages,
            v_pages,
            q,
            bias=bias,
        )
        written = slots.long()
        return (
            q,
            reference.from_k_pages(k_pages).flatten(0, 1)[written],
            reference.from_v_pages(v_pages).flatten(0, 1)[written],
        )

    positions = torch.randint(300, (NUM_ROWS,), dtype=torch.int32)
    rope_sets = torch.randint(2, (NUM_ROWS,), dtype=torch.int32)
    return RowOp((randn(NUM_ROWS, width, dtype=dtype), positions, rope_sets), apply)


def qkv_rope_with_bias(dtype: torch.dtype) -> RowOp:
    return qkv_rope(dtype, has_bias=True)


def qkv_rope_int4(dtype: torch.dtype) -> RowOp:
    return qkv_rope(dtype, has_bias=True, format="int4-g32")


def qkv_rope_fp8(dtype: torch.dtype) -> RowOp:
    """Of weights and into pages."""
    return qkv_rope(dtype, format="fp8", kv_dtype=torch.float8_e4m3fn)


def embedding_fp8(dtype: torch.dtype) -> RowOp:
    return embedding(dtype, 0.3, "fp8")


def embedding_int4(dtype: torch.dtype) -> RowOp:
    return embedding(dtype, 0.3, "int4-g128-min")


def qkv_rope_int8(dtype: torch.dtype) -> RowOp:
    """As `qkv_rope`, into int8 pages."""
    num_heads, num_kv_heads, head_dim, width, num_pages = 6, 2, 48, 100, 5
    weight = ops.pack_linear(randn((num_heads + 2 * num_kv_heads) * head_dim, width, dtype=dtype))
    table = randn(2, 300, 16, 2)

    def apply(x: Tensor, positions: Tensor, rope_sets: Tensor) -> tuple[Tensor, ...]:
        q = guarded(len(x), num_heads, head_dim, dtype=dtype)
        shapes = ops.kv_cache_shapes(num_pages, num_kv_heads, head_dim, torch.int8)
        k_pages, v_pages = (poisoned(*shape, dtype=torch.int8) for shape in shapes)
        scales_shape = ops.kv_scales_shape(num_pages, num_kv_heads)
        scales = [poisoned(*scales_shape, dtype=torch.float32) for _ in range(2)]
        slots = torch.randperm(num_pages * ops.PAGE_SIZE, dtype=torch.int32)[: len(x)]
        ops.qkv_rope(x, weight, positions, rope_sets, table, slots, k_pages, v_pages, q, *scales)
        written = slots.long()
        return (
            q,
            reference.from_k_pages(k_pages).flatten(0, 1)[written],
            reference.from_v_pages(v_pages).flatten(0, 1)[written],
            *(reference.from_scale_pages(s).flatten(0, 1)[written] for s in scales),
        )

    positions = torch.randint(300, (NUM_ROWS,), dtype=torch.int32)
    rope_sets = torch.randint(2, (NUM_ROWS,), dtype=torch.int32)
    return RowOp((randn(NUM_ROWS, width, dtype=dtype), positions, rope_sets), apply)


def attention_decode(
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None = None,
    block_sparse: ops.BlockSparse | None = None,
) -> RowOp:
    """One query per row, each over its own number of keys of one shared set of pages."""
    num_heads, num_kv_heads, head_dim, num_pages = 6, 2, 48, 34
    shapes = ops.kv_cache_shapes(num_pages, num_kv_heads, head_dim, kv_dtype or dtype, DEVICE)
    scales: list[Tensor] = []
    if kv_dtype == torch.int8:
        k_pages, v_pages = (torch.randint(-127, 128, s, dtype=torch.int8) for s in shapes)
        scales = [torch.rand(ops.kv_scales_shape(num_pages, num_kv_heads)) / 50 for _ in range(2)]
    else:
        k_pages, v_pages = (randn(*shape, dtype=kv_dtype or dtype) for shape in shapes)

    def apply(q: Tensor, block_tables: Tensor, context_lens: Tensor) -> tuple[Tensor, ...]:
        out = guarded(len(q), num_heads * head_dim, dtype=dtype)
        starts = torch.arange(len(q) + 1, dtype=torch.int32)
        ops.attention(
            q,
            k_pages,
            v_pages,
            block_tables,
            starts,
            context_lens,
            0 if block_sparse else 300,
            head_dim**-0.5,
            out,
            *scales,
            block_sparse=block_sparse,
            workspace=attention_workspace(q, block_tables),
        )
        return (out,)

    q = randn(NUM_ROWS, num_heads, head_dim, dtype=dtype)
    tables = torch.stack([torch.randperm(num_pages, dtype=torch.int32) for _ in range(NUM_ROWS)])
    context_lens = torch.randint(1, num_pages * 16 + 1, (NUM_ROWS,), dtype=torch.int32)
    return RowOp((q, tables, context_lens), apply)


def attention_decode_int8(dtype: torch.dtype) -> RowOp:
    return attention_decode(dtype, torch.int8)


def attention_decode_fp8(dtype: torch.dtype) -> RowOp:
    return attention_decode(dtype, torch.float8_e4m3fn)


def attention_decode_sparse(dtype: torch.dtype) -> RowOp:
    return attention_decode(dtype, block_sparse=ops.BlockSparse(32, 3, 4, 1))


def attention_decode_sparse_int8(dtype: torch.dtype) -> RowOp:
    return attention_decode(dtype, torch.int8, ops.BlockSparse(32, 3, 4, 1))


def starts_of(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()])


def sample(dtype: torch.dtype) -> RowOp:
    """Rows with every setting, with some, and with none."""
    seen_ids = [torch.randperm(1501)[:num].int() for num in torch.randint(0, 90, (NUM_ROWS,))]
    seen_counts = [torch.randint(0, 4, (len(ids),)).int() for ids in seen_ids]
    bias_ids = [torch.randint(1501, (num,)).int() for num in torch.randint(0, 20, (NUM_ROWS,))]
    biases = [torch.randn(len(ids)) for ids in bias_ids]

    def apply(logits: Tensor, *settings: Tensor) -> tuple[Tensor, ...]:
        ids, logprobs = torch.empty(len(logits), dtype=torch.int32), torch.empty(len(logits))
        *settings, min_p, typical_p, repetition, presence, frequency, owners = settings
        none = [torch.empty(0, dtype=torch.int32)]
        rows = owners.tolist()
        ops.sample(
            logits,
            *settings,
            ids,
            logprobs,
            min_p=min_p,
            typical_p=typical_p,
            penalties=ops.Penalties(
                repetition,
                presence,
                frequency,
                starts_of(torch.tensor([len(seen_ids[row]) for row in rows])),
                torch.cat([*none, *(seen_ids[row] for row in rows)]),
                torch.cat([*none, *(seen_counts[row] for row in rows)]),
            ),
            biases=ops.Biases(
                starts_of(torch.tensor([len(bias_ids[row]) for row in rows])),
                torch.cat([*none, *(bias_ids[row] for row in rows)]),
                torch.cat([torch.empty(0), *(biases[row] for row in rows)]),
            ),
            workspace=sample_workspace(logits),
        )
        return ids, logprobs

    settings = (
        torch.rand(NUM_ROWS) * (torch.rand(NUM_ROWS) < 0.8),  # temperature, some greedy
        torch.randint(0, 20, (NUM_ROWS,), dtype=torch.int32),
        torch.rand(NUM_ROWS) * 0.9 + 0.1,
        torch.randint(-(2**63), 2**63 - 1, (NUM_ROWS,)),
        torch.randint(3, (NUM_ROWS,), dtype=torch.int32),
        torch.randint(5000, (NUM_ROWS,), dtype=torch.int32),
        torch.rand(NUM_ROWS) * (torch.rand(NUM_ROWS) < 0.5) * 0.1,  # min_p
        (torch.rand(NUM_ROWS) + 0.2).clamp(max=1.0),  # typical_p
        torch.rand(NUM_ROWS) + 0.6,  # penalties
        torch.randn(NUM_ROWS),
        torch.randn(NUM_ROWS),
        torch.arange(NUM_ROWS),  # whose tokens and biases
    )
    return RowOp((4 * randn(NUM_ROWS, 1501, dtype=dtype).float(), *settings), apply)


def logprobs(dtype: torch.dtype) -> RowOp:
    def apply(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        of_tokens = guarded(len(logits), dtype=torch.float32)
        top_ids = poisoned(len(logits), 20, dtype=torch.int32)
        of_top = guarded(len(logits), 20, dtype=torch.float32)
        ops.logprobs(logits, token_ids, of_tokens, top_ids, of_top)
        return of_tokens, top_ids, of_top

    logits = 4 * randn(NUM_ROWS, 1501, dtype=dtype).float()
    return RowOp((logits, torch.randint(1501, (NUM_ROWS,), dtype=torch.int32)), apply)


OPS = [
    embedding,
    embedding_scaled,
    embedding_int4,
    rms_norm,
    rms_norm_quantized,
    layer_norm,
    layer_norm_quantized,
    quantize,
    linear,
    linear_wide,
    linear_int8,
    linear_int4_g32,
    linear_int4_g32_min,
    linear_int4_g128,
    linear_int4_g128_min,
    linear_accumulate,
    mlp,
    mlp_gegelu,
    mlp_int4_into_int8,
    mlp_int4_into_floats,
    lm_head,
    lm_head_with_biases,
    lm_head_int8,
    classify_head,
    classify_head_layer_norm,
    qkv_rope,
    qkv_rope_with_bias,
    qkv_rope_int4,
    qkv_rope_int8,
    attention_decode,
    attention_decode_int8,
    attention_decode_sparse,
    attention_decode_sparse_int8,
    sample,
    logprobs,
]
WITHOUT_STRIDED_ROWS = [
    embedding,
    embedding_scaled,
    embedding_int4,
    attention_decode,
    attention_decode_int8,
    attention_decode_sparse,
    attention_decode_sparse_int8,
]


CPU_ONLY = [make for make in OPS if {"quantize", "quantized"} & set(make.__name__.split("_"))]
CPU_ONLY += [make for make in OPS if "int" in make.__name__]
CUDA_ONLY = [linear_fp8, mlp_fp8, embedding_fp8, qkv_rope_fp8, attention_decode_fp8]


def params(makes: list[Callable[[torch.dtype], RowOp]]) -> list[object]:
    """The ops of `makes` that the backend has, and those that only it has."""
    if BACKEND == "cuda":
        makes = [*makes, *CUDA_ONLY]
    return [
        pytest.param(make, marks=[pytest.mark.cpu_only] if make in CPU_ONLY else [])
        for make in makes
    ]


@pytest.fixture(params=params(OPS), ids=lambda make: make.__name__)
def op(request: pytest.FixtureRequest, dtype: torch.dtype) -> RowOp:
    made: RowOp = request.param(dtype)
    return made


def assert_rows_equal(actual: tuple[Tensor, ...], whole: tuple[Tensor, ...], index: Tensor) -> None:
    for a, w in zip(actual, whole, strict=True):
        assert_bitwise_equal(a, w[index])


def every_row(op: RowOp) -> tuple[Tensor, tuple[Tensor, ...]]:
    index = torch.arange(NUM_ROWS)
    return index, op.rows(index)


def test_a_row_alone_equals_the_row_in_a_batch(op: RowOp) -> None:
    index, whole = every_row(op)
    for i in index:
        assert_rows_equal(op.rows(i[None]), whole, i[None])


def test_rows_of_a_smaller_batch_equal_the_whole(op: RowOp) -> None:
    index, whole = every_row(op)
    for num_rows in (2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 31, 33, 47, 48, 49, 65):
        for start in (0, 1, NUM_ROWS - num_rows):
            some = index[start : start + num_rows]
            assert_rows_equal(op.rows(some), whole, some)


def test_the_order_of_the_rows_does_not_matter(op: RowOp) -> None:
    index, whole = every_row(op)
    for order in (index.flip(0), torch.randperm(NUM_ROWS), torch.randint(NUM_ROWS, (NUM_ROWS,))):
        assert_rows_equal(op.rows(order), whole, order)


def test_poisoned_neighbours_do_not_leak(op: RowOp) -> None:
    index, whole = every_row(op)
    slices = (index[::2], index[1::2], index[5:6], index[-1:], index[16:32])
    for poison, kept in itertools.product((math.nan, math.inf, 1e38), slices):
        spoilt = torch.ones(NUM_ROWS, dtype=torch.bool)
        spoilt[kept] = False
        inputs = [t.clone() for t in op.inputs]
        for t in inputs:
            if t.dim() > 1 and t.dtype.is_floating_point:
                t[spoilt] = poison
        outputs = op.apply(*inputs)
        assert_rows_equal(tuple(o[kept] for o in outputs), whole, kept)


@pytest.mark.cpu_only
def test_the_number_of_threads_does_not_matter(op: RowOp) -> None:
    index, whole = every_row(op)
    for num_threads in (2, 3, 7):
        ops.set_num_threads(num_threads)
        for some in (index, index[:1], index[3:8], index[:17]):
            assert_rows_equal(op.rows(some), whole, some)


@pytest.mark.parametrize(
    "op", params([make for make in OPS if make not in WITHOUT_STRIDED_ROWS]), indirect=True
)
def test_alignment_does_not_matter(op: RowOp) -> None:
    """Row tensors may be strided; of an op's inputs those are the matrices of floats."""
    index, whole = every_row(op)
    inputs = [misaligned(t) if t.dim() == 2 and t.dtype.is_floating_point else t for t in op.inputs]
    assert_rows_equal(op.apply(*inputs), whole, index)


def test_repeated_calls_agree(op: RowOp) -> None:
    index, whole = every_row(op)
    ops.set_num_threads(2)
    for _ in range(5):
        assert_rows_equal(op.rows(index), whole, index)
