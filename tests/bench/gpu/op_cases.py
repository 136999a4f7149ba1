"""One op in the shape of a model: a program of several calls on data of their own.

The calls of a program go round several copies of the weights or pages, so that together they exceed
the caches of the device, as the layers of a model do; as a CUDA graph they follow each other
without waiting for Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phi3svc import ops
from tests.bench.gpu.shapes import Shape

_CACHE_BYTES = 256 << 20
_MAX_CALLS = 16


@dataclass(frozen=True)
class OpCase:
    """num_bytes, num_operations: of one call: what has to be read and written once, and multiplied
    and added. calls: in the program."""

    name: str
    program: ops.Program
    num_calls: int
    num_bytes: int
    num_operations: int


Call = Callable[[], None]


def gemm_cases(
    shape: Shape, num_tokens: int, format: str, device: torch.device
) -> Iterator[OpCase]:
    """The four GEMMs of a layer and the head, with their epilogues."""
    e, f, t = shape.hidden_size, shape.mlp_width, num_tokens
    weight_bytes = {"float32": 4, "bfloat16": 2, "fp8": 1}[format]
    h = torch.randn(t, e, device=device)
    x = torch.randn(t, e, device=device).bfloat16()

    def random(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, device=device) / columns**0.5).bfloat16()

    def case(name: str, rows: int, columns: int, make: Callable[[], Call]) -> OpCase:
        num_bytes = rows * columns * weight_bytes + 2 * t * (rows + columns)
        calls, program = _record(make, num_bytes)
        return OpCase(name, program, calls, num_bytes, 2 * t * rows * columns)

    def o() -> Call:
        weight = ops.pack_linear(random(e, shape.num_heads * shape.head_dim), format)
        mixed = torch.randn(t, shape.num_heads * shape.head_dim, device=device).bfloat16()
        return lambda: ops.linear(mixed, weight, h, accumulate=True)

    def mlp() -> Call:
        gate_up, down = (
            ops.pack_gate_up(random(2 * f, e), format),
            ops.pack_linear(random(e, f), format),
        )
        act = torch.empty(t, f, device=device, dtype=torch.bfloat16)
        return lambda: ops.mlp(x, gate_up, down, act, h)

    def head() -> Call:
        weight = ops.pack_linear(random(shape.vocab_size, e), format)
        norm = torch.ones(e, device=device).bfloat16()
        rows = torch.arange(t, device=device, dtype=torch.int32)
        normed = torch.empty_like(x)
        logits = torch.empty(t, shape.vocab_size, device=device)
        return lambda: ops.lm_head(h, rows, norm, 1e-5, weight, normed, logits)

    yield case("o", e, shape.num_heads * shape.head_dim, o)
    yield case("mlp", 3 * f, e, mlp)
    yield case("qkv_rope", shape.qkv_rows, e, lambda: _qkv(shape, x, random, format, device))
    if t <= 256:
        yield case("lm_head", shape.vocab_size, e, head)


def _qkv(
    shape: Shape,
    x: Tensor,
    random: Callable[[int, int], Tensor],
    format: str,
    device: torch.device,
) -> Call:
    t = len(x)
    weight = ops.pack_qkv(
        random(shape.qkv_rows, shape.hidden_size),
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        format,
    )
    slots = torch.arange(t, device=device, dtype=torch.int32)
    sets = torch.zeros_like(slots)
    table = torch.randn(1, t, shape.head_dim // 2, 2, device=device)
    k_pages, v_pages = _pages(shape, t, torch.bfloat16, device)
    q = torch.empty(t, shape.num_heads, shape.head_dim, device=device, dtype=torch.bfloat16)
    return lambda: ops.qkv_rope(x, weight, slots, sets, table, slots, k_pages, v_pages, q)


def attention_case(
    shape: Shape,
    name: str,
    num_sequences: int,
    num_queries: int,
    context_len: int,
    kv_dtype: torch.dtype,
    device: torch.device,
) -> OpCase:
    """The last `num_queries` tokens of sequences of one length, on scattered pages."""
    b, t = num_sequences, num_sequences * num_queries
    table_len = -(-context_len // ops.PAGE_SIZE)
    width = shape.num_heads * shape.head_dim
    starts = torch.arange(0, t + 1, num_queries, device=device, dtype=torch.int32)
    lens = torch.full((b,), context_len, device=device, dtype=torch.int32)
    room = ops.attention_workspace_bytes(t, shape.num_heads, shape.head_dim, table_len)
    workspace = torch.zeros(min(room, 256 << 20), device=device, dtype=torch.uint8)
    out = torch.empty(t, width, device=device, dtype=torch.bfloat16)
    q = torch.randn(t, shape.num_heads, shape.head_dim, device=device).bfloat16()

    def make() -> Call:
        k_pages, v_pages = _pages(shape, b * table_len * ops.PAGE_SIZE, kv_dtype, device)
        tables = torch.randperm(b * table_len, device=device).int().view(b, table_len)
        return lambda: ops.attention(
            q,
            k_pages,
            v_pages,
            tables,
            starts,
            lens,
            0,
            shape.head_dim**-0.5,
            out,
            workspace=workspace,
        )

    kv_bytes = 2 * b * context_len * shape.num_kv_heads * shape.head_dim * kv_dtype.itemsize
    seen = sum(range(context_len - num_queries + 1, context_len + 1))
    calls, program = _record(make, kv_bytes)
    return OpCase(name, program, calls, kv_bytes + 4 * t * width, 4 * b * seen * width)


def norm_case(shape: Shape, num_tokens: int, device: torch.device) -> OpCase:
    h = torch.randn(num_tokens, shape.hidden_size, device=device)
    weight = torch.ones(shape.hidden_size, device=device).bfloat16()
    out = torch.empty(h.shape, device=device, dtype=torch.bfloat16)
    num_bytes = h.numel() * 6
    calls, program = _record(lambda: lambda: ops.rms_norm(h, weight, 1e-5, out), num_bytes)
    return OpCase("rms_norm", program, calls, num_bytes, 0)


def sample_case(shape: Shape, num_rows: int, is_greedy: bool, device: torch.device) -> OpCase:
    n, v = num_rows, shape.vocab_size
    logits = torch.randn(n, v, device=device)
    zeros = torch.zeros(n, device=device, dtype=torch.int32)
    temperature = torch.full((n,), 0.0 if is_greedy else 0.7, device=device)
    top_k = torch.full_like(zeros, 0 if is_greedy else 50)
    top_p = torch.full((n,), 1.0 if is_greedy else 0.9, device=device)
    seeds = torch.arange(n, device=device)
    ids, found = torch.empty_like(zeros), torch.empty(n, device=device)

    def make() -> Call:
        return lambda: ops.sample(
            logits, temperature, top_k, top_p, seeds, zeros, zeros, ids, found
        )

    calls, program = _record(make, 4 * n * v)
    name = "sample greedy" if is_greedy else "sample top-k top-p"
    return OpCase(name, program, calls, 4 * n * v, 0)


def _pages(
    shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    num_pages = -(-num_tokens // ops.PAGE_SIZE)
    k_shape, v_shape = ops.kv_cache_shapes(
        num_pages, shape.num_kv_heads, shape.head_dim, dtype, device
    )
    return torch.randn(k_shape, device=device).to(dtype), torch.randn(v_shape, device=device).to(
        dtype
    )


def _record(make: Callable[[], Call], num_bytes: int) -> tuple[int, ops.Program]:
    num_calls = max(1, min(_MAX_CALLS, _CACHE_BYTES // max(num_bytes, 1) + 1))
    calls = [make() for _ in range(num_calls)]
    program = ops.Program()
    with program:
        for call in calls:
            call()
    return num_calls, program
