"""The network under RoPE types that transformers has and its Phi-3 refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from tests.model import oracle
from tests.model.checkpoints import longrope, make_checkpoint, rescale
from tests.model.decoding import all_logits, random_ids
from tests.networks import load_network

LONGEST = 128
PHI3_YARN_FACTOR = 1.138629436111989  # 0.1 ln 4 + 1
TYPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "phi3_yarn": longrope(24, 32) | {"rope_type": "phi3_yarn"},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 dims, of which 24 rotate; 32 positions before any stretching."""
    return make_checkpoint(
        tmp_path_factory.mktemp("plain"),
        hidden_size=128,
        partial_rotary_factor=0.75,
        max_position_embeddings=32,
        original_max_position_embeddings=32,
    )


def theirs_with(plain: Path, rope: dict[str, Any], max_positions: int) -> Any:
    """transformers' model with another rotary embedding put in."""
    model = oracle.load(plain)
    if rope["rope_type"] == "phi3_yarn":
        rope = rope | {"rope_type": "longrope", "attention_factor": PHI3_YARN_FACTOR}
    model.config.rope_parameters = (
        model.config.rope_parameters | {"original_max_position_embeddings": 32} | rope
    )
    model.config.max_position_embeddings = max_positions
    model.model.rotary_emb = Phi3RotaryEmbedding(model.config)
    return model


@pytest.mark.parametrize("name", TYPES)
def test_logits_equal_transformers(plain: Path, tmp_path: Path, name: str) -> None:
    """At lengths where dynamic NTK has the base that transformers takes: see `dynamic_len`."""
    max_positions = LONGEST if name == "phi3_yarn" else 32
    path = tmp_path / name
    shutil.copytree(plain, path)
    rescale(path, TYPES[name], max_position_embeddings=max_positions)
    network, without = load_network(path), load_network(plain)
    assert network.config.context_len == LONGEST
    theirs = theirs_with(plain, TYPES[name], max_positions)
    for num_tokens in (1, 32, 64, LONGEST):
        ids = random_ids(num_tokens)
        expected = oracle.logits(theirs, ids)
        assert oracle.relative_error(all_logits(network, ids), expected) < 1e-4
        if num_tokens > 32:
            assert oracle.relative_error(all_logits(without, ids), expected) > 0.01
