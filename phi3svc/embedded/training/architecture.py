"""The shapes of the three embedded models, as transformers configurations."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import Phi3Config

HEAD_DIM = 32

# Distinct sets on purpose: a server that mixes them up gives visibly wrong answers.
SHORT_FACTOR = [round(1.0 + 0.01 * i, 4) for i in range(HEAD_DIM // 2)]
LONG_FACTOR = [round(1.25 * 8.0 ** (i / (HEAD_DIM // 2 - 1)), 4) for i in range(HEAD_DIM // 2)]


def phi3_config(
    *,
    vocab_size: int,
    num_layers: int,
    intermediate_size: int,
    original_len: int,
    end_id: int,
    pad_id: int,
    tie_word_embeddings: bool,
    labels: Sequence[str] = (),
) -> Phi3Config:
    """A Phi-3 configuration with LongRoPE over 8 × `original_len` positions."""
    config = Phi3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8 * original_len,
        original_max_position_embeddings=original_len,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "short_factor": SHORT_FACTOR,
            "long_factor": LONG_FACTOR,
            "original_max_position_embeddings": original_len,
            "factor": 8.0,
        },
        sliding_window=None,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=1,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return config
