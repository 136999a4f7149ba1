"""RoPE tables against transformers' rotary embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from phi3svc.config.model import Phi3Config
from phi3svc.model.rope import RopeTables
from tests.model.checkpoints import make_config


def tables(config: transformers.Phi3Config) -> RopeTables:
    return RopeTables(Phi3Config.from_dict(config.to_dict() | {"architectures": None}).rope)


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_size": 384},
        {"hidden_size": 384, "original": 64},
        {"hidden_size": 128, "original": 64, "partial_rotary_factor": 0.75},
    ],
    ids=["default", "longrope", "partial"],
)
@pytest.mark.parametrize("last_position", [63, 64, 131071])
def test_table_equals_transformers(overrides: dict[str, Any], last_position: int) -> None:
    config = make_config(max_position_embeddings=131072, **overrides)
    rope = tables(config)
    rope.ensure(131072)
    positions = torch.arange(max(0, last_position - 40), last_position + 1)
    rotary = transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1), positions[None])
    rope_set = 1 if last_position >= 64 and "original" in overrides else 0
    half = rope.table.shape[2]
    ours = rope.table[rope_set, positions]
    assert cos.shape[-1] == 2 * half
    torch.testing.assert_close(ours[..., 0], cos[0, :, :half], rtol=0, atol=3e-7)
    torch.testing.assert_close(ours[..., 1], sin[0, :, :half], rtol=0, atol=3e-7)


def test_attention_factor_scales_both_sets() -> None:
    config = make_config(original=64, max_position_embeddings=2048)
    rope = tables(config)
    rope.ensure(300)
    radius = rope.table.double().pow(2).sum(-1).sqrt()
    expected = (1 + torch.tensor(32.0).log() / torch.tensor(64.0).log()).sqrt()
    torch.testing.assert_close(radius, expected.double().expand_as(radius), rtol=1e-6, atol=0)
    assert not rope.table[0].equal(rope.table[1])
