"""A token's bits do not depend on how its prompt was cut, on page ids, or on who shares the step.

A small network of two layers runs over the same prompts in many ways; everything it computes must
come out bit for bit the same: hidden states, logits, keys and values.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal
from op_tensors import i32, poisoned, randn, slots_of, starts_of
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

EPS = 1e-5
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 6, 2, 32  # groups of 3: row tiles cut through queries
WIDTH, MLP_WIDTH, VOCAB_SIZE, NUM_LAYERS = 72, 100, 61, 2
MAX_POSITION = 700


@dataclass(frozen=True)
class Layer:
    """Biases are None in Phi-3, and its layers are not block-sparse."""

    input_norm: Tensor
    input_norm_bias: Tensor | None
    qkv: ops.PackedLinear
    qkv_bias: Tensor | None
    block_sparse: ops.BlockSparse | None
    output: ops.PackedLinear
    output_bias: Tensor | None
    mlp_norm: Tensor
    mlp_norm_bias: Tensor | None
    gate_up: ops.PackedLinear
    gate_up_bias: Tensor | None
    down: ops.PackedLinear
    down_bias: Tensor | None


class Network:
    """Phi-3 in miniature: two layers, partial rotary, two factor sets, tied embeddings.

    kv_dtype: that of its caches, the model's or int8. is_small: Phi-3-small in miniature, with its
    norms, biases, scales and activation, and block-sparse in the first layer.
    """

    def __init__(
        self, dtype: torch.dtype, window: int, kv_dtype: torch.dtype, is_small: bool = False
    ) -> None:
        def weight(*shape: int) -> Tensor:
            return randn(*shape, dtype=dtype, std=shape[-1] ** -0.5)

        def bias(size: int) -> Tensor | None:
            return randn(size, dtype=dtype, std=0.1) if is_small else None

        self.dtype, self.window, self.kv_dtype = dtype, window, kv_dtype
        self.embedding_scale, self.logit_scale = (1.5, 0.125) if is_small else (1.0, 1.0)
        self.gegelu_limit = 1.0 if is_small else None
        self.norm_bias, self.logit_bias = bias(WIDTH), bias(VOCAB_SIZE)
        sparse = [ops.BlockSparse(32, 2, 3, 1), None] if is_small else [None, None]
        num_qkv = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
        self.head = ops.pack_linear(weight(VOCAB_SIZE, WIDTH))
        self.norm = 1 + randn(WIDTH, dtype=dtype, std=0.1)
        angles = torch.outer(torch.arange(MAX_POSITION), 100.0 ** (-torch.arange(12) / 12))
        table = torch.stack([angles.cos(), angles.sin()], dim=-1)
        self.rope_table = torch.stack([table, 1.19 * table.flip(1)])  # R = 24 of 32
        self.layers = [
            Layer(
                input_norm=1 + randn(WIDTH, dtype=dtype, std=0.1),
                input_norm_bias=bias(WIDTH),
                qkv=ops.pack_linear(weight(num_qkv, WIDTH)),
                qkv_bias=bias(num_qkv),
                block_sparse=sparse[i],
                output=ops.pack_linear(weight(WIDTH, NUM_HEADS * HEAD_DIM)),
                output_bias=bias(WIDTH),
                mlp_norm=1 + randn(WIDTH, dtype=dtype, std=0.1),
                mlp_norm_bias=bias(WIDTH),
                gate_up=ops.pack_gate_up(weight(2 * MLP_WIDTH, WIDTH)),
                gate_up_bias=bias(2 * MLP_WIDTH),
                down=ops.pack_linear(weight(WIDTH, MLP_WIDTH)),
                down_bias=bias(WIDTH),
            )
            for i in range(NUM_LAYERS)
        ]


class Cache:
    """Pages of every layer, full of NaN until written. Those of int8 have it in their scales."""

    def __init__(self, network: Network, num_pages: int) -> None:
        dtype = network.kv_dtype
        k_shape, v_shape = ops.kv_cache_shapes(num_pages, NUM_KV_HEADS, HEAD_DIM, dtype)
        scales_shape = ops.kv_scales_shape(num_pages, NUM_KV_HEADS)
        self.layers = [
            (poisoned(*k_shape, dtype=dtype), poisoned(*v_shape, dtype=dtype))
            for _ in range(NUM_LAYERS)
        ]
        self.scales = [
            [poisoned(*scales_shape, dtype=torch.float32) for _ in range(2)]
            if dtype == torch.int8
            else []
            for _ in range(NUM_LAYERS)
        ]
        self.free = torch.randperm(num_pages, dtype=torch.int32)

    def take(self, num_tokens: int) -> Tensor:
        """Page ids, int32, for a sequence of `num_tokens`."""
        num_pages = -(-num_tokens // ops.PAGE_SIZE)
        taken, self.free = self.free[:num_pages], self.free[num_pages:]
        assert len(taken) == num_pages
        return taken

    def keys_and_values(self, page_ids: Tensor, num_tokens: int) -> list[Tensor]:
        """What a sequence wrote, of every layer, [n, K, D], and scales [n, K]."""
        found = []
        for (k_pages, v_pages), scales in zip(self.layers, self.scales, strict=True):
            pages = page_ids.long()
            found.append(reference.from_k_pages(k_pages[pages]))
            found.append(reference.from_v_pages(v_pages[pages]))
            found += [reference.from_scale_pages(s[pages]) for s in scales]
        return [logical.flatten(0, 1)[:num_tokens] for logical in found]

    def spoil(self, page_ids: Tensor) -> None:
        """Make everything that was written to some pages NaN."""
        for pages, scales in zip(self.layers, self.scales, strict=True):
            for tensor in scales or pages:
                tensor[page_ids.long()] = math.nan


@dataclass(frozen=True)
class Chunk:
    """Tokens start..end of a sequence, computed in one step."""

    token_ids: Tensor  # the whole sequence's, i32
    page_ids: Tensor
    rope_set: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def normalize(h: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        ops.rms_norm(h, weight, EPS, out)
    else:
        ops.layer_norm(h, weight, bias, EPS, out)


def step(
    network: Network, cache: Cache, chunks: list[Chunk], is_recorded: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """One forward over a packed batch: per chunk its hidden states and logits."""
    program = ops.Program()
    with program if is_recorded else contextlib.nullcontext():
        outputs = forward(network, cache, chunks)
    program.run()
    return outputs


def forward(
    network: Network, cache: Cache, chunks: list[Chunk]
) -> tuple[list[Tensor], list[Tensor]]:
    """The calls of a step."""
    lens = [len(c) for c in chunks]
    num_tokens, dtype = sum(lens), network.dtype
    token_ids = torch.cat([c.token_ids[c.start : c.end] for c in chunks])
    positions = torch.cat([torch.arange(c.start, c.end, dtype=torch.int32) for c in chunks])
    rope_sets = torch.cat([torch.full((len(c),), c.rope_set, dtype=torch.int32) for c in chunks])
    slots = torch.cat([slots_of(c.page_ids, torch.arange(c.start, c.end)) for c in chunks])
    tables = torch.full((len(chunks), max(len(c.page_ids) for c in chunks)), -1, dtype=torch.int32)
    for row, c in zip(tables, chunks, strict=True):
        row[: len(c.page_ids)] = c.page_ids
    query_starts, context_lens = starts_of(lens), i32(*(c.end for c in chunks))

    h = poisoned(num_tokens, WIDTH, dtype=torch.float32)
    x, normed = poisoned(num_tokens, WIDTH, dtype=dtype), poisoned(num_tokens, WIDTH, dtype=dtype)
    q = poisoned(num_tokens, NUM_HEADS, HEAD_DIM, dtype=dtype)
    mixed = poisoned(num_tokens, NUM_HEADS * HEAD_DIM, dtype=dtype)
    act = poisoned(num_tokens, MLP_WIDTH, dtype=dtype)
    logits = poisoned(num_tokens, VOCAB_SIZE, dtype=torch.float32)

    ops.embedding(token_ids, network.head, h, network.embedding_scale)
    for layer, (k_pages, v_pages), scales in zip(
        network.layers, cache.layers, cache.scales, strict=True
    ):
        normalize(h, layer.input_norm, layer.input_norm_bias, x)
        ops.qkv_rope(
            x,
            layer.qkv,
            positions,
            rope_sets,
            network.rope_table,
            slots,
            k_pages,
            v_pages,
            q,
            *scales,
            bias=layer.qkv_bias,
        )
        ops.attention(
            q,
            k_pages,
            v_pages,
            tables,
            query_starts,
            context_lens,
            network.window,
            HEAD_DIM**-0.5,
            mixed,
            *scales,
            block_sparse=layer.block_sparse,
        )
        ops.linear(mixed, layer.output, h, layer.output_bias, accumulate=True)
        normalize(h, layer.mlp_norm, layer.mlp_norm_bias, x)
        ops.mlp(
            x,
            layer.gate_up,
            layer.down,
            act,
            h,
            layer.gate_up_bias,
            layer.down_bias,
            network.gegelu_limit,
        )
    rows = torch.arange(num_tokens, dtype=torch.int32)
    ops.lm_head(
        h,
        rows,
        network.norm,
        EPS,
        network.head,
        normed,
        logits,
        network.norm_bias,
        network.logit_bias,
        network.logit_scale,
    )
    return list(h.split(lens)), list(logits.split(lens))


@dataclass(frozen=True)
class Trace:
    """Everything a sequence left behind."""

    h: Tensor
    logits: Tensor
    cached: list[Tensor]

    def assert_equals(self, other: Trace) -> None:
        assert_bitwise_equal(self.h, other.h)
        assert_bitwise_equal(self.logits, other.logits)
        for mine, theirs in zip(self.cached, other.cached, strict=True):
            assert_bitwise_equal(mine, theirs)


@dataclass(frozen=True)
class Prompt:
    token_ids: Tensor
    rope_set: int

    def __len__(self) -> int:
        return len(self.token_ids)


def prompt(num_tokens: int, rope_set: int = 0) -> Prompt:
    return Prompt(torch.randint(VOCAB_SIZE, (num_tokens,), dtype=torch.int32), rope_set)


def run(network: Network, prompts: list[Prompt], chunk_lens: list[int]) -> list[Trace]:
    """All prompts side by side through one cache, each in chunks of its own length."""
    cache = Cache(network, sum(-(-len(p) // ops.PAGE_SIZE) for p in prompts) + 2)
    pages = [cache.take(len(p)) for p in prompts]
    todo = [
        [
            Chunk(p.token_ids, page_ids, p.rope_set, start, end)
            for start, end in reference.chunks(len(p), chunk_len)
        ]
        for p, page_ids, chunk_len in zip(prompts, pages, chunk_lens, strict=True)
    ]
    h: list[list[Tensor]] = [[] for _ in prompts]
    logits: list[list[Tensor]] = [[] for _ in prompts]
    while any(todo):
        now = [i for i, left in enumerate(todo) if left]
        new_h, new_logits = step(network, cache, [todo[i].pop(0) for i in now])
        for i, one_h, one_logits in zip(now, new_h, new_logits, strict=True):
            h[i].append(one_h)
            logits[i].append(one_logits)
    return [
        Trace(torch.cat(h[i]), torch.cat(logits[i]), cache.keys_and_values(pages[i], len(p)))
        for i, p in enumerate(prompts)
    ]


def alone(network: Network, one: Prompt) -> Trace:
    return run(network, [one], [len(one)])[0]


@pytest.fixture(params=["", "kv_int8"])
def kv_dtype(request: pytest.FixtureRequest, dtype: torch.dtype) -> torch.dtype:
    return torch.int8 if request.param else dtype


@pytest.fixture(params=["window0", "window5", "window270", "small"])
def network(request: pytest.FixtureRequest, dtype: torch.dtype, kv_dtype: torch.dtype) -> Network:
    if request.param == "small":
        return Network(dtype, 0, kv_dtype, is_small=True)
    return Network(dtype, int(request.param.removeprefix("window")), kv_dtype)


def test_a_recorded_step_equals_its_calls(network: Network) -> None:
    one = prompt(290)
    cache = Cache(network, 20)
    pages = cache.take(len(one))
    chunk = Chunk(one.token_ids, pages, 0, 0, len(one))
    (h,), (logits,) = step(network, cache, [chunk], is_recorded=True)
    Trace(h, logits, cache.keys_and_values(pages, len(one))).assert_equals(alone(network, one))


@pytest.mark.parametrize("chunk_len", [1, 3, 16, 17, 100, 256])
def test_chunking_does_not_change_a_prompt(network: Network, chunk_len: int) -> None:
    one = prompt(290)
    run(network, [one], [chunk_len])[0].assert_equals(alone(network, one))


def test_decoding_across_spans_equals_one_prefill(network: Network) -> None:
    """A prompt of 500 tokens, then one token at a time over the 512-key edge."""
    one = prompt(530)
    cache = Cache(network, 40)
    pages = cache.take(len(one))
    cuts = [(0, 500), *((i, i + 1) for i in range(500, 530))]
    steps = [step(network, cache, [Chunk(one.token_ids, pages, 0, *cut)]) for cut in cuts]
    stepwise = Trace(
        torch.cat([h for (h,), _ in steps]),
        torch.cat([logits for _, (logits,) in steps]),
        cache.keys_and_values(pages, len(one)),
    )
    stepwise.assert_equals(alone(network, one))


def test_sharing_steps_does_not_change_a_prompt(network: Network) -> None:
    lens = [1, 16, 17, 33, 90, 257, 40, 5, 64, 2]
    prompts = [prompt(n, rope_set=i % 2) for i, n in enumerate(lens)]
    together = run(network, prompts, [1, 16, 3, 8, 7, 50, 1, 5, 17, 1])
    for one, trace in zip(prompts, together, strict=True):
        trace.assert_equals(alone(network, one))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_do_not_change_a_prompt(network: Network, num_threads: int) -> None:
    prompts = [prompt(n) for n in (270, 16, 3)]
    before = [alone(network, one) for one in prompts]
    ops.set_num_threads(num_threads)
    for chunk_lens in ([270, 16, 3], [9, 4, 1]):
        for trace, expected in zip(run(network, prompts, chunk_lens), before, strict=True):
            trace.assert_equals(expected)


def test_a_spoilt_neighbour_does_not_change_a_prompt(network: Network) -> None:
    """A neighbour whose keys, values and activations are all NaN shares every step."""
    one, neighbour = prompt(40), prompt(30)
    expected = alone(network, one)
    cache = Cache(network, 8)
    pages, other_pages = cache.take(len(one)), cache.take(len(neighbour))
    traces_h, traces_logits = [], []
    for (start, end), (other_start, other_end) in zip(
        reference.chunks(40, 8), reference.chunks(30, 6), strict=True
    ):
        cache.spoil(other_pages)
        chunk = Chunk(one.token_ids, pages, 0, start, end)
        other = Chunk(neighbour.token_ids, other_pages, 0, other_start, other_end)
        mine = int(start % 16 == 0)
        h, logits = step(network, cache, [other, chunk] if mine else [chunk, other])
        if other_start:
            assert h[1 - mine].isnan().all()
        traces_h.append(h[mine])
        traces_logits.append(logits[mine])
    found = Trace(
        torch.cat(traces_h), torch.cat(traces_logits), cache.keys_and_values(pages, len(one))
    )
    found.assert_equals(expected)


def test_sharing_pages_of_a_common_prefix_does_not_change_a_prompt(network: Network) -> None:
    """Two prompts read the same pages for their first 32 tokens, as with a prefix cache."""
    first, second = prompt(45), prompt(60)
    second.token_ids[:32] = first.token_ids[:32]
    expected = alone(network, second)
    cache = Cache(network, 10)
    first_pages = cache.take(len(first))
    second_pages = torch.cat([first_pages[:2], cache.take(len(second) - 32)])
    step(network, cache, [Chunk(first.token_ids, first_pages, 0, 0, 44)])
    h, logits = step(
        network,
        cache,
        [
            Chunk(first.token_ids, first_pages, 0, 44, 45),
            Chunk(second.token_ids, second_pages, 0, 32, 60),
        ],
    )
    assert_bitwise_equal(h[1], expected.h[32:])
    assert_bitwise_equal(logits[1], expected.logits[32:])
    for mine, theirs in zip(
        cache.keys_and_values(second_pages, len(second)), expected.cached, strict=True
    ):
        assert_bitwise_equal(mine, theirs)
