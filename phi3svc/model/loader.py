"""From a checkpoint's folder to a network that runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import BYTES_PER_ELEMENT, Phi3Config
from phi3svc.errors import ConfigError
from phi3svc.model.phi3 import Head, LayerWeights, Phi3Network, Phi3Weights
from phi3svc.model.weights import (
    EMBEDDING,
    LM_HEAD,
    NORM,
    SCORE,
    SCORE_BIAS,
    Progress,
    WeightReader,
    layer_name,
)
from phi3svc.ops import PackedLinear


def load_network(path: Path, dtype: str = "auto", progress: Progress | None = None) -> Phi3Network:
    """Load the checkpoint in folder `path`.

    dtype: "float32", "bfloat16", or "auto" for the config's. One tensor at a time is read,
    converted and packed, so the peak is the packed weights and twice the largest tensor. Raises
    ConfigError in one line.
    """
    config = Phi3Config.from_dir(path)
    if dtype == "auto":
        dtype = config.dtype
    if dtype not in BYTES_PER_ELEMENT:
        raise ConfigError(f"dtype={dtype!r}: must be one of auto, {', '.join(BYTES_PER_ELEMENT)}")
    to = getattr(torch, dtype)
    reader = WeightReader(path, config, progress)

    def plain(name: str) -> Tensor:
        return reader.read(name, to)

    def packed(name: str) -> PackedLinear:
        return ops.pack_linear(plain(name))

    layers = tuple(
        LayerWeights(
            input_norm=plain(layer_name(i, "input_layernorm")),
            qkv=packed(layer_name(i, "self_attn.qkv_proj")),
            o=packed(layer_name(i, "self_attn.o_proj")),
            post_attention_norm=plain(layer_name(i, "post_attention_layernorm")),
            gate_up=ops.pack_gate_up(plain(layer_name(i, "mlp.gate_up_proj"))),
            down=packed(layer_name(i, "mlp.down_proj")),
        )
        for i in range(config.num_hidden_layers)
    )
    lm_head: PackedLinear | None = None
    embedding: Tensor | PackedLinear
    if LM_HEAD in reader:
        # Even if the config says tied: transformers does not tie two tensors that differ.
        embedding, lm_head = plain(EMBEDDING), packed(LM_HEAD)
    elif config.tie_word_embeddings and config.task == "generation":
        embedding = lm_head = packed(EMBEDDING)
    else:
        embedding = plain(EMBEDDING)
    score_head = _score_head(config, reader)
    has_bias = score_head == "token-classification" and SCORE_BIAS in reader
    weights = Phi3Weights(
        embedding=embedding,
        layers=layers,
        norm=plain(NORM),
        lm_head=lm_head,
        score=packed(SCORE) if score_head is not None else None,
        score_bias=plain(SCORE_BIAS) if has_bias else None,
    )
    heads: set[Head] = {"generation"} if lm_head is not None else set()
    if score_head is not None:
        heads.add(score_head)
    return Phi3Network(config, weights, frozenset(heads))


def _score_head(config: Phi3Config, reader: WeightReader) -> Head | None:
    """What `score` classifies. In transformers only a token classifier's score has a bias."""
    if SCORE not in reader:
        return None
    if config.task in ("sequence-classification", "token-classification"):
        return config.task
    return "token-classification" if SCORE_BIAS in reader else "sequence-classification"
