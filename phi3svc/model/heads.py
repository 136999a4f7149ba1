"""Embedding and heads of a checkpoint, which all architectures of the family name alike."""

from __future__ import annotations

from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.model.network import Head
from phi3svc.model.weight_source import WeightSource
from phi3svc.ops import PackedLinear

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
SCORE = "score.weight"
SCORE_BIAS = "score.bias"


def required_head_names(config: Phi3Config) -> list[str]:
    """The tensors that the task needs besides those of the decoder."""
    names = []
    if config.task == "generation" and not config.tie_word_embeddings:
        names.append(LM_HEAD)
    if config.task in ("sequence-classification", "token-classification"):
        names.append(SCORE)
    if config.task == "token-classification" and config.token_classification_bias:
        names.append(SCORE_BIAS)
    return names


def load_embedding_and_head(
    config: Phi3Config, source: WeightSource
) -> tuple[Tensor | PackedLinear, PackedLinear | None]:
    """E and the language-model head, the same object where they are tied; None without a head."""
    if LM_HEAD in source:
        # Even if the config says tied: transformers does not tie two tensors that differ.
        return source.plain(EMBEDDING), source.linear(LM_HEAD)
    if config.tie_word_embeddings and config.task == "generation":
        packed = source.linear(EMBEDDING)
        return packed, packed
    return source.plain(EMBEDDING), None


def score_head_of(config: Phi3Config, source: WeightSource) -> Head | None:
    """What `score` classifies. In transformers only a token classifier's score has a bias."""
    if SCORE not in source:
        return None
    if config.task in ("sequence-classification", "token-classification"):
        return config.task
    return "token-classification" if SCORE_BIAS in source else "sequence-classification"
