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

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.model.inputs import ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Head, Network, OnLayer
from phi3svc.model.phi3_weights import Phi3Weights


class Phi3Network(Network):
    """Phi-3 and what shares its architecture: mini, medium, 3.5, Phi-4, Phi-4-mini."""

    weights: Phi3Weights

    def __init__(
        self, config: Phi3Config, weights: Phi3Weights, heads: frozenset[Head], format: str
    ) -> None:
        super().__init__(config, weights, heads, format)
        self._scale = config.head_dim**-0.5
        self._window = config.sliding_window or 0

    def compute(
        self,
        inputs: ModelInput,
        kv: KVCache,
        embeddings: Tensor | None = None,
        on_layer: OnLayer | None = None,
    ) -> Tensor:
        c = self.config
        t = inputs.num_tokens
        h = self._workspaces.rows("h", t, c.hidden_size, dtype=torch.float32)
        q = self._workspaces.rows("q", t, c.num_attention_heads, c.head_dim)
        mixed = self._workspaces.rows("mixed", t, c.num_attention_heads * c.head_dim)
        act = self._workspaces.rows("act", t, c.intermediate_size)
        workspace = self._attention_workspace(inputs.shape)

        if embeddings is None:
            ops.embedding(inputs.token_ids, self.weights.embedding, h)
        else:
            h.copy_(embeddings)
        if on_layer is not None:
            on_layer(0, h)
        for layer_idx, layer in enumerate(self.weights.layers):
            k_pages, v_pages = kv.layers[layer_idx]
            k_scales, v_scales = kv.scales[layer_idx]
            x = self._rows("x", t, layer.qkv)
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
                k_scales,
                v_scales,
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
                k_scales,
                v_scales,
                workspace=workspace,
            )
            x = self._as_rows_of(layer.o, "mixed", mixed)
            ops.linear(x, layer.o, h, accumulate=True)
            x = self._rows("x", t, layer.gate_up)
            ops.rms_norm(h, layer.post_attention_norm, c.rms_norm_eps, x)
            quantized_act = self._rows("act", t, layer.down) if layer.down.is_integer else None
            ops.mlp(x, layer.gate_up, layer.down, act, h, quantized_act=quantized_act)
            if on_layer is not None:
                on_layer(layer_idx + 1, h)
        return h
