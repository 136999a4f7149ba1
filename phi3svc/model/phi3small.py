"""The network of Phi-3-small, top to bottom.

    h = 10 · E[ids]
    for each layer:
        q, k, v = split(norm(h) Wqkvᵀ + b);  q, k = rope(q, k)
        h += attention(q, K, V) Wdenseᵀ + b           block-sparse, but dense in every second layer
        gate, up = split(norm(h) Wguᵀ + b);  h += (gegelu(gate) · (up + 1)) Wdownᵀ + b
    logits = norm(h) Eᵀ / 8

As Microsoft's `modeling_phi3_small.py`. norm is a layer norm, 10 and 8 are muP multipliers, scores
are scaled by 1/D where others have 1/sqrt(D), and gegelu(x) = x · sigmoid(1.702 x) with both halves
clamped at ±20. Differences on purpose are those of `model/phi3.py`; block indices count from a
sequence's first token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.model.inputs import ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Head, Network, OnLayer
from phi3svc.model.phi3small_weights import Phi3SmallWeights


class Phi3SmallNetwork(Network):
    """Phi-3-small, of 8k and of 128k tokens."""

    weights: Phi3SmallWeights

    def __init__(
        self, config: Phi3Config, weights: Phi3SmallWeights, heads: frozenset[Head], format: str
    ) -> None:
        assert config.small is not None
        super().__init__(config, weights, heads, format, 1.0 / config.small.width_multiplier)
        self.small = config.small
        self._sparse = ops.BlockSparse(
            block_size=self.small.block_size,
            num_local_blocks=self.small.num_local_blocks,
            vertical_stride=self.small.vertical_stride,
            head_step=self.small.head_step,
        )

    def compute(
        self,
        inputs: ModelInput,
        kv: KVCache,
        embeddings: Tensor | None = None,
        on_layer: OnLayer | None = None,
    ) -> Tensor:
        c, small = self.config, self.small
        t = inputs.num_tokens
        h = self._workspaces.rows("h", t, c.hidden_size, dtype=torch.float32)
        q = self._workspaces.rows("q", t, c.num_attention_heads, c.head_dim)
        mixed = self._workspaces.rows("mixed", t, c.num_attention_heads * c.head_dim)
        act = self._workspaces.rows("act", t, c.intermediate_size)
        workspace = self._attention_workspace(inputs.shape)

        if embeddings is None:
            table = self.weights.embedding
            ops.embedding(inputs.token_ids, table, h, scale=small.embedding_multiplier)
        else:
            torch.mul(embeddings, small.embedding_multiplier, out=h)
        if on_layer is not None:
            on_layer(0, h)
        for layer_idx, layer in enumerate(self.weights.layers):
            k_pages, v_pages = kv.layers[layer_idx]
            k_scales, v_scales = kv.scales[layer_idx]
            x = self._rows("x", t, layer.qkv)
            ops.layer_norm(h, layer.input_norm, layer.input_norm_bias, c.rms_norm_eps, x)
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
                bias=layer.qkv_bias,
            )
            ops.attention(
                q,
                k_pages,
                v_pages,
                inputs.block_tables,
                inputs.query_starts,
                inputs.context_lens,
                0,
                small.attention_scale,
                mixed,
                k_scales,
                v_scales,
                block_sparse=None if small.is_dense(layer_idx) else self._sparse,
                workspace=workspace,
            )
            x = self._as_rows_of(layer.dense, "mixed", mixed)
            ops.linear(x, layer.dense, h, bias=layer.dense_bias, accumulate=True)
            x = self._rows("x", t, layer.gate_up)
            norm, norm_bias = layer.post_attention_norm, layer.post_attention_norm_bias
            ops.layer_norm(h, norm, norm_bias, c.rms_norm_eps, x)
            quantized_act = self._rows("act", t, layer.down) if layer.down.is_integer else None
            ops.mlp(
                x,
                layer.gate_up,
                layer.down,
                act,
                h,
                gate_up_bias=layer.gate_up_bias,
                down_bias=layer.down_bias,
                gegelu_limit=small.gegelu_limit,
                quantized_act=quantized_act,
            )
            if on_layer is not None:
                on_layer(layer_idx + 1, h)
        return h
