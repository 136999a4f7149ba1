"""The network against transformers, float32 and bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.model import oracle
from tests.model.checkpoints import make_checkpoint, to_old_dialect
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import all_logits, greedy, random_ids
from tests.networks import load_network

SHAPES: dict[str, dict[str, Any]] = {
    "gqa, head dim 16": {},
    "mha, head dim 96": {
        "hidden_size": 192,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "gqa, head dim 32": {"hidden_size": 128},
    "mqa, head dim 64": {"hidden_size": 256, "num_key_value_heads": 1},
    "gqa, head dim 128": {"hidden_size": 512, "num_key_value_heads": 2},
    "6 heads over 3, odd widths": {
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 57,
        "vocab_size": 301,
    },
    "head dim beside hidden size": {"head_dim": 32},
    "sliding window": {"sliding_window": 7},
    "window of one": {"sliding_window": 1},
    "partial rotary, tied": {
        "hidden_size": 128,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
    },
    "partial rotary, tied, long": {
        "hidden_size": 128,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "original": 16,
    },
    "window, long": {"sliding_window": 9, "original": 16},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(checkpoint: MakeCheckpoint, shape: str) -> None:
    path = checkpoint(**SHAPES[shape])
    ids = random_ids(41)
    actual = all_logits(load_network(path), ids)
    assert oracle.relative_error(actual, oracle.logits(oracle.load(path), ids)) < 1e-4


@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 34, 64, 300])
def test_longrope_switches_where_transformers_does(
    checkpoint: MakeCheckpoint, num_tokens: int
) -> None:
    path = checkpoint(original=32)
    network = load_network(path)
    ids = random_ids(num_tokens)
    actual = all_logits(network, ids)
    assert oracle.relative_error(actual, oracle.logits(oracle.load(path), ids)) < 1e-4
    assert network.config.rope_set(num_tokens) == (num_tokens > 32)


def test_longrope_sets_differ_at_the_boundary(checkpoint: MakeCheckpoint) -> None:
    """Guards the tests above: the wrong factor set would fail them by orders of magnitude."""
    network = load_network(checkpoint(original=32))
    ids = random_ids(33)
    long = all_logits(network, ids)[:32]
    assert oracle.relative_error(all_logits(network, ids[:32]), long) > 0.01


@pytest.mark.parametrize(
    ("shape", "prompt_len", "num_recomputed"),
    [
        ({}, 5, 0),
        ({"sliding_window": 7}, 20, 0),
        ({"original": 32}, 12, 1),
        ({"original": 32}, 32, 1),
        ({"original": 32}, 33, 0),
        ({"original": 32, "hidden_size": 192, "num_attention_heads": 2}, 31, 1),
        (SHAPES["partial rotary, tied, long"], 3, 1),
        ({"original": 32, "sliding_window": 11}, 20, 1),
    ],
    ids=str,
)
def test_greedy_tokens_equal_transformers(
    checkpoint: MakeCheckpoint, shape: dict[str, Any], prompt_len: int, num_recomputed: int
) -> None:
    path = checkpoint(**shape)
    ids = random_ids(prompt_len, seed=prompt_len)
    expected = oracle.greedy(oracle.load(path), ids, 64)
    assert greedy(load_network(path), ids, 64) == (expected, num_recomputed)
    assert len(set(expected)) > 4, "a prompt that says one thing forever tests nothing"


def test_old_config_dialect_means_the_same(tmp_path: Path) -> None:
    for name, overrides in {
        "plain": {"sliding_window": 9},
        "long": {"hidden_size": 128, "partial_rotary_factor": 0.75, "original": 32},
    }.items():
        path = make_checkpoint(tmp_path / name, **overrides)
        ids = random_ids(40)
        new = load_network(path)
        expected = all_logits(new, ids)
        old = load_network(to_old_dialect(path))
        assert old.config == new.config
        assert all_logits(old, ids).equal(expected)
        assert oracle.relative_error(oracle.logits(oracle.load(path), ids), expected) < 1e-4


def test_sharded_checkpoint_equals_single_file(checkpoint: MakeCheckpoint) -> None:
    sharded = checkpoint(max_shard_size="100KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    ids = random_ids(20)
    expected = all_logits(load_network(checkpoint()), ids)
    assert all_logits(load_network(sharded), ids).equal(expected)


@pytest.mark.parametrize("shape", ["gqa, head dim 16", "mha, head dim 96", "window, long"])
def test_bfloat16_errs_no_more_than_transformers(checkpoint: MakeCheckpoint, shape: str) -> None:
    path = checkpoint(dtype="bfloat16", num_hidden_layers=4, **SHAPES[shape])
    network = load_network(path)
    assert str(network.dtype) == "torch.bfloat16"
    ids = random_ids(48)
    exact = oracle.logits(oracle.load(path, "float32"), ids)
    theirs = oracle.relative_error(oracle.logits(oracle.load(path, "bfloat16"), ids), exact)
    ours = oracle.relative_error(all_logits(network, ids), exact)
    assert ours < 2 * theirs
    assert oracle.relative_error(all_logits(load_network(path, "float32"), ids), exact) < 1e-4


def test_float16_checkpoint_loads_exactly(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint(dtype="float16")
    network = load_network(path)
    assert str(network.dtype) == "torch.float32"
    ids = random_ids(20)
    exact = oracle.logits(oracle.load(path, "float32"), ids)
    assert oracle.relative_error(all_logits(network, ids), exact) < 1e-4


def test_tied_embeddings_share_one_copy(checkpoint: MakeCheckpoint) -> None:
    weights = load_network(checkpoint(tie_word_embeddings=True)).weights
    assert weights.embedding is weights.lm_head
