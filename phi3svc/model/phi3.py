"""The network, top to bottom.

    h = E[ids]
    for each layer:
        q, k, v = split(rms(h) Wqkvᵀ);  q, k = rope(q, k)
        h += attention(q, K, V) Woᵀ
        gate, up = split(rms(h) Wguᵀ);  h += (silu(gate) · up) Wdownᵀ
    logits = rms(h) Wheadᵀ

As transformers' `modeling_phi3.py`, with two differences on purpose. The residual stream h, and
with it logits and scores, stay float32 in a bfloat16 model. And LongRoPE's factor set belongs to a
sequence (`ModelInput.rope_sets`), where transformers takes one for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.model.inputs import ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.passes import RecordedPass, RecordedPasses
from phi3svc.model.rope import RopeTables
from phi3svc.ops import PackedLinear

Head = Literal["generation", "sequence-classification", "token-classification"]


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer."""

    input_norm: Tensor  # [E]
    qkv: PackedLinear  # [(H + 2K)·D, E], rows q | k | v
    o: PackedLinear  # [E, H·D]
    post_attention_norm: Tensor  # [E]
    gate_up: PackedLinear  # [2F, E], rows gate | up
    down: PackedLinear  # [E, F]


@dataclass(frozen=True)
class Phi3Weights:
    """All weights, in the model's dtype. Tied: `embedding` and `lm_head` are the same object."""

    embedding: Tensor | PackedLinear  # [V, E]
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [E]
    lm_head: PackedLinear | None = None  # [V, E]
    score: PackedLinear | None = None  # [C, E]
    score_bias: Tensor | None = None  # [C]


class Phi3Network:
    """Decoder layers and the heads that the checkpoint has.

    Workspaces are kept between calls: what `forward`, `logits` and `scores` return is good until
    the next call of the same method. Passes are recorded, and run again on inputs of the same
    shape. Not for two threads at once.
    """

    def __init__(self, config: Phi3Config, weights: Phi3Weights, heads: frozenset[Head]) -> None:
        self.config = config
        self.weights = weights
        self.heads = heads
        self.rope = RopeTables(config.rope)
        self._scale = config.head_dim**-0.5
        self._window = config.sliding_window or 0
        self._buffers: dict[str, Tensor] = {}
        self._passes: WeakKeyDictionary[KVCache, RecordedPasses] = WeakKeyDictionary()

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.norm.dtype

    @property
    def device(self) -> torch.device:
        return self.weights.norm.device

    def forward(self, inputs: ModelInput, kv: KVCache) -> Tensor:
        """Run the layers over the packed tokens, writing their keys and values into `kv`.

        Returns h, float32 [T, E], the residual stream before the final norm.
        """
        self.rope.ensure(inputs.num_positions)
        passes = self._passes.setdefault(kv, RecordedPasses())
        recorded = passes.find(inputs.shape, self.rope.table)
        if recorded is None:
            own_inputs, program = ModelInput(inputs.shape), ops.Program()
            with program:
                h = self.compute(own_inputs, kv)
            recorded = RecordedPass(program, own_inputs, self.rope.table, h)
            if own_inputs.is_small:
                passes.keep(recorded)
        return recorded.run(inputs)

    def compute(self, inputs: ModelInput, kv: KVCache) -> Tensor:
        """What `forward` does, call by call. `rope.table` must hold all positions."""
        c = self.config
        t = inputs.num_tokens
        h = self._buffer("h", t, c.hidden_size, dtype=torch.float32)
        x = self._buffer("x", t, c.hidden_size)
        q = self._buffer("q", t, c.num_attention_heads, c.head_dim)
        mixed = self._buffer("mixed", t, c.num_attention_heads * c.head_dim)
        act = self._buffer("act", t, c.intermediate_size)

        ops.embedding(inputs.token_ids, self.weights.embedding, h)
        for layer, (k_pages, v_pages), scales in zip(
            self.weights.layers, kv.layers, kv.scales, strict=True
        ):
            ops.rms_norm(h, layer.input_norm, c.rms_norm_eps, x)
            ops.qkv_rope(
                x,
                layer.qkv,
                inputs.positions,
                inputs.rope_sets,
                self.rope.table,
                inputs.slots,
                k_pages,
                v_pages,
                q,
                *scales,
            )
            ops.attention(
                q,
                k_pages,
                v_pages,
                inputs.block_tables,
                inputs.query_starts,
                inputs.context_lens,
                self._window,
                self._scale,
                mixed,
                *scales,
            )
            ops.linear(mixed, layer.o, h, accumulate=True)
            ops.rms_norm(h, layer.post_attention_norm, c.rms_norm_eps, x)
            ops.mlp(x, layer.gate_up, layer.down, act, h)
        return h

    def last_hidden_state(self, h: Tensor) -> Tensor:
        """The final norm of every row, [T, E] in the model's dtype; a new tensor."""
        out = torch.empty(h.shape, dtype=self.dtype, device=self.device)
        ops.rms_norm(h, self.weights.norm, self.config.rms_norm_eps, out)
        return out

    def logits(self, h: Tensor, rows: Tensor) -> Tensor:
        """Logits of the tokens after `rows` (int32 [n]) of `h`: float32 [n, V]."""
        head = self.weights.lm_head
        if head is None:
            raise ValueError("this network has no generation head")
        normed = self._buffer("normed", len(rows), self.config.hidden_size)
        logits = self._buffer("logits", len(rows), head.out_features, dtype=torch.float32)
        norm, eps = self.weights.norm, self.config.rms_norm_eps
        ops.lm_head(h, rows, norm, eps, head, normed, logits)
        return logits

    def scores(self, h: Tensor, rows: Tensor) -> Tensor:
        """Raw label scores of `rows` (int32 [n]) of `h`: float32 [n, C], before any softmax."""
        head, bias = self.weights.score, self.weights.score_bias
        if head is None:
            raise ValueError("this network has no classification head")
        normed = self._buffer("normed", len(rows), self.config.hidden_size)
        scores = self._buffer("scores", len(rows), head.out_features, dtype=torch.float32)
        norm, eps = self.weights.norm, self.config.rms_norm_eps
        ops.classify_head(h, rows, norm, eps, head, bias, normed, scores)
        return scores

    def _buffer(
        self, name: str, num_rows: int, *row_shape: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The first `num_rows` rows of the workspace `name`, which grows to its largest use."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[0] < num_rows:
            buffer = torch.empty(
                (num_rows, *row_shape), dtype=dtype or self.dtype, device=self.device
            )
            self._buffers[name] = buffer
            for passes in self._passes.values():  # they hold on to the smaller one
                passes.clear()
        return buffer[:num_rows]
