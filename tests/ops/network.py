"""A small network on the ops alone: Phi-3 or Phi-3-small in miniature, and its cache."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

import reference
from devices import DEVICE
from op_tensors import attention_workspace, i32, poisoned, randn, slots_of, starts_of
from phi3svc import ops

EPS = 1e-5
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 6, 2, 32  # groups of 3: row tiles cut through queries
ROTARY_DIM = 24
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
    norms, biases, scales and activation, and block-sparse in the first layer. format: of its packed
    weights, the model's if None; down_format: of the second half of the MLP.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        window: int,
        kv_dtype: torch.dtype,
        is_small: bool = False,
        format: str | None = None,
        down_format: str | None = None,
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
        self.head = ops.pack_linear(weight(VOCAB_SIZE, WIDTH), format)
        self.norm = 1 + randn(WIDTH, dtype=dtype, std=0.1)
        pairs = torch.arange(ROTARY_DIM // 2)
        angles = torch.outer(torch.arange(MAX_POSITION), 100.0 ** (-pairs / len(pairs)))
        table = torch.stack([angles.cos(), angles.sin()], dim=-1)
        self.rope_table = torch.stack([table, 1.19 * table.flip(1)])
        self.layers = [
            Layer(
                input_norm=1 + randn(WIDTH, dtype=dtype, std=0.1),
                input_norm_bias=bias(WIDTH),
                qkv=ops.pack_qkv(
                    weight(num_qkv, WIDTH), NUM_HEADS, NUM_KV_HEADS, ROTARY_DIM, format
                ),
                qkv_bias=bias(num_qkv),
                block_sparse=sparse[i],
                output=ops.pack_linear(weight(WIDTH, NUM_HEADS * HEAD_DIM), format),
                output_bias=bias(WIDTH),
                mlp_norm=1 + randn(WIDTH, dtype=dtype, std=0.1),
                mlp_norm_bias=bias(WIDTH),
                gate_up=ops.pack_gate_up(weight(2 * MLP_WIDTH, WIDTH), format),
                gate_up_bias=bias(2 * MLP_WIDTH),
                down=ops.pack_linear(weight(WIDTH, MLP_WIDTH), down_format or format),
                down_bias=bias(WIDTH),
            )
            for i in range(NUM_LAYERS)
        ]


class Cache:
    """Pages of every layer, full of NaN until written. Those of int8 have it in their scales."""

    def __init__(self, network: Network, num_pages: int) -> None:
        dtype = network.kv_dtype
        k_shape, v_shape = ops.kv_cache_shapes(num_pages, NUM_KV_HEADS, HEAD_DIM, dtype, DEVICE)
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


def input_for(weight: ops.PackedLinear, num_tokens: int, dtype: torch.dtype) -> Tensor:
    """Room for what a weight of the network is multiplied with."""
    if weight.is_integer:
        row_bytes = ops.quantized_row_bytes(weight.in_features)
        return poisoned(num_tokens, row_bytes, dtype=torch.int8)
    return poisoned(num_tokens, weight.in_features, dtype=dtype)


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

    qkv, output, down = (getattr(network.layers[0], name) for name in ("qkv", "output", "down"))
    h = poisoned(num_tokens, WIDTH, dtype=torch.float32)
    x, normed = (input_for(weight, num_tokens, dtype) for weight in (qkv, network.head))
    q = poisoned(num_tokens, NUM_HEADS, HEAD_DIM, dtype=dtype)
    mixed = poisoned(num_tokens, NUM_HEADS * HEAD_DIM, dtype=dtype)
    to_output = input_for(output, num_tokens, dtype) if output.is_integer else mixed
    act = poisoned(num_tokens, MLP_WIDTH, dtype=dtype)
    quantized_act = input_for(down, num_tokens, dtype) if down.is_integer else None
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
            workspace=attention_workspace(q, tables),
        )
        if to_output is not mixed:
            ops.quantize(mixed, to_output)
        ops.linear(to_output, layer.output, h, layer.output_bias, accumulate=True)
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
            quantized_act,
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
