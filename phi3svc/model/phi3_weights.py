"""The weights of a Phi-3 checkpoint: which there must be, and how the network holds them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.model.heads import (
    EMBEDDING,
    LM_HEAD,
    SCORE,
    SCORE_BIAS,
    load_embedding_and_head,
    required_head_names,
    score_head_of,
)
from phi3svc.model.network import Head, OuterWeights
from phi3svc.model.weight_source import Heads, WeightSource
from phi3svc.model.weights import layer_name
from phi3svc.ops import PackedLinear

NORM = "model.norm.weight"


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer."""

    input_norm: Tensor  # [E]
    qkv: PackedLinear  # [(H + 2K)·D, E], rows q | k | v
    o: PackedLinear  # [E, H·D]
    post_attention_norm: Tensor  # [E]
    gate_up: PackedLinear  # [2F, E], rows gate | up
    down: PackedLinear  # [E, F]


@dataclass(frozen=True, kw_only=True)
class Phi3Weights(OuterWeights):
    """All weights."""

    layers: tuple[LayerWeights, ...]


def expected_shapes(config: Phi3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a Phi-3 checkpoint may hold and the network uses."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        NORM: (hidden,),
        LM_HEAD: (config.vocab_size, hidden),
    }
    for i in range(config.num_hidden_layers):
        shapes |= {
            layer_name(i, "input_layernorm"): (hidden,),
            layer_name(i, "self_attn.qkv_proj"): (config.qkv_features, hidden),
            layer_name(i, "self_attn.o_proj"): (
                hidden,
                config.num_attention_heads * config.head_dim,
            ),
            layer_name(i, "post_attention_layernorm"): (hidden,),
            layer_name(i, "mlp.gate_up_proj"): (2 * mlp, hidden),
            layer_name(i, "mlp.down_proj"): (hidden, mlp),
        }
    if config.labels:
        shapes |= {SCORE: (len(config.labels), hidden), SCORE_BIAS: (len(config.labels),)}
    return shapes


def required_names(config: Phi3Config) -> list[str]:
    """The tensors without which the architecture cannot run."""
    names = [n for n in expected_shapes(config) if n.startswith("model.")]
    return names + required_head_names(config)


def load_phi3(config: Phi3Config, source: WeightSource) -> tuple[Phi3Weights, frozenset[Head]]:
    """Take one weight after the other; also says which heads they make."""
    # First, while there is room: they are larger than any weight of a layer.
    embedding, lm_head = load_embedding_and_head(config, source)
    heads_of_qkv = Heads.of(config)
    layers = tuple(
        LayerWeights(
            input_norm=source.plain(layer_name(i, "input_layernorm")),
            qkv=source.qkv(layer_name(i, "self_attn.qkv_proj"), heads_of_qkv),
            o=source.linear(layer_name(i, "self_attn.o_proj")),
            post_attention_norm=source.plain(layer_name(i, "post_attention_layernorm")),
            gate_up=source.gate_up(layer_name(i, "mlp.gate_up_proj")),
            down=source.linear(layer_name(i, "mlp.down_proj")),
        )
        for i in range(config.num_hidden_layers)
    )
    score_head = score_head_of(config, source)
    has_bias = score_head == "token-classification" and SCORE_BIAS in source
    weights = Phi3Weights(
        embedding=embedding,
        layers=layers,
        norm=source.plain(NORM),
        lm_head=lm_head,
        score=source.linear(SCORE) if score_head is not None else None,
        score_bias=source.plain(SCORE_BIAS) if has_bias else None,
    )
    heads: set[Head] = {"generation"} if lm_head is not None else set()
    if score_head is not None:
        heads.add(score_head)
    return weights, frozenset(heads)
