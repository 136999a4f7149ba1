"""The weights of a Phi-3-small checkpoint: which there must be, and how the network holds them.

Microsoft's file interleaves what this project keeps apart: the query, key and value heads of each
group, and the two halves of the MLP. Rows are put in order once, here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.config.phi3small_tokens import DUMMY_TOKEN_IDS
from phi3svc.model.heads import (
    EMBEDDING,
    LM_HEAD,
    SCORE,
    load_embedding_and_head,
    required_head_names,
)
from phi3svc.model.network import Head, OuterWeights
from phi3svc.model.weight_source import Heads, Rows, WeightSource
from phi3svc.model.weights import layer_name
from phi3svc.ops import PackedLinear

NORM, NORM_BIAS = "model.final_layernorm.weight", "model.final_layernorm.bias"


@dataclass(frozen=True)
class Phi3SmallLayerWeights:
    """One decoder layer."""

    input_norm: Tensor  # [E]
    input_norm_bias: Tensor  # [E]
    qkv: PackedLinear  # [(H + 2K)·D, E], rows q | k | v
    qkv_bias: Tensor  # [(H + 2K)·D]
    dense: PackedLinear  # [E, H·D]
    dense_bias: Tensor  # [E]
    post_attention_norm: Tensor  # [E]
    post_attention_norm_bias: Tensor  # [E]
    gate_up: PackedLinear  # [2F, E], rows gate | up
    gate_up_bias: Tensor  # [2F]
    down: PackedLinear  # [E, F]
    down_bias: Tensor  # [E]


@dataclass(frozen=True, kw_only=True)
class Phi3SmallWeights(OuterWeights):
    """All weights."""

    layers: tuple[Phi3SmallLayerWeights, ...]


def expected_shapes(config: Phi3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint may hold and the network uses."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    mixed = config.num_attention_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        NORM: (hidden,),
        NORM_BIAS: (hidden,),
        LM_HEAD: (config.vocab_size, hidden),
    }
    for i in range(config.num_hidden_layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {layer_name(i, norm): (hidden,), layer_name(i, norm, "bias"): (hidden,)}
        for linear, num_rows, num_columns in (
            ("self_attn.query_key_value", config.qkv_features, hidden),
            ("self_attn.dense", hidden, mixed),
            ("mlp.up_proj", 2 * mlp, hidden),
            ("mlp.down_proj", hidden, mlp),
        ):
            shapes[layer_name(i, linear)] = (num_rows, num_columns)
            shapes[layer_name(i, linear, "bias")] = (num_rows,)
    if config.labels:
        shapes[SCORE] = (len(config.labels), hidden)
    return shapes


def required_names(config: Phi3Config) -> list[str]:
    """The tensors without which the architecture cannot run."""
    names = [n for n in expected_shapes(config) if n.startswith("model.")]
    return names + required_head_names(config)


def load_phi3small(
    config: Phi3Config, source: WeightSource
) -> tuple[Phi3SmallWeights, frozenset[Head]]:
    """Take one weight after the other; also says which heads they make."""
    ungroup = partial(ungroup_qkv, config=config)

    def linear(layer_idx: int, module: str) -> PackedLinear:
        return source.linear(layer_name(layer_idx, module))

    def norm(layer_idx: int, module: str) -> Tensor:
        return source.plain(layer_name(layer_idx, module))

    def bias(layer_idx: int, module: str, rows: Rows | None = None) -> Tensor:
        return source.plain(layer_name(layer_idx, module, "bias"), rows)

    # First, while there is room: they are larger than any weight of a layer.
    embedding, lm_head = load_embedding_and_head(config, source)
    layers = tuple(
        Phi3SmallLayerWeights(
            input_norm=norm(i, "input_layernorm"),
            input_norm_bias=bias(i, "input_layernorm"),
            qkv=source.qkv(layer_name(i, "self_attn.query_key_value"), Heads.of(config), ungroup),
            qkv_bias=bias(i, "self_attn.query_key_value", ungroup),
            dense=linear(i, "self_attn.dense"),
            dense_bias=bias(i, "self_attn.dense"),
            post_attention_norm=norm(i, "post_attention_layernorm"),
            post_attention_norm_bias=bias(i, "post_attention_layernorm"),
            gate_up=source.gate_up(layer_name(i, "mlp.up_proj"), deinterleave),
            gate_up_bias=bias(i, "mlp.up_proj", deinterleave),
            down=linear(i, "mlp.down_proj"),
            down_bias=bias(i, "mlp.down_proj"),
        )
        for i in range(config.num_hidden_layers)
    )
    final_norm = source.plain(NORM)
    has_head = lm_head is not None
    weights = Phi3SmallWeights(
        embedding=embedding,
        layers=layers,
        norm=final_norm,
        norm_bias=source.plain(NORM_BIAS),
        lm_head=lm_head,
        lm_head_bias=_forbidding_bias(config.vocab_size, final_norm) if has_head else None,
        score=source.linear(SCORE) if SCORE in source else None,
    )
    heads: set[Head] = {"generation"} if has_head else set()
    if weights.score is not None:
        heads.add("sequence-classification")
    return weights, frozenset(heads)


def ungroup_qkv(rows: Tensor, config: Phi3Config) -> Tensor:
    """Rows [K × (H/K query heads, a key head, a value head) × D, ...] in the order q | k | v."""
    groups = rows.view(config.num_key_value_heads, -1, config.head_dim, *rows.shape[1:])
    parts = (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])
    # Copied part by part into one tensor: `load_network` allows for twice a tensor, not more.
    ungrouped = torch.empty_like(rows)
    lengths = [part.shape[:3].numel() for part in parts]
    for target, part in zip(torch.split(ungrouped, lengths), parts, strict=True):
        target.view(part.shape).copy_(part)
    return ungrouped


def deinterleave(rows: Tensor) -> Tensor:
    """Rows gate, up, gate, up, ... [2F, ...] in the order gate | up."""
    return torch.cat([rows[0::2], rows[1::2]])


def _forbidding_bias(vocab_size: int, like: Tensor) -> Tensor | None:
    """[V], of the dtype and on the device of `like`; None where all tokens may be generated."""
    dummy_ids = [token_id for token_id in DUMMY_TOKEN_IDS if token_id < vocab_size]
    if not dummy_ids:
        return None
    bias = torch.zeros(vocab_size, dtype=like.dtype, device=like.device)
    bias[dummy_ids] = -torch.inf
    return bias
