"""Phi-3-small against a dense float64 computation of its own, and its bits against themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.phi3small import Phi3SmallNetwork
from tests.model import oracle
from tests.model.conftest import DTYPES
from tests.model.decoding import Pages, all_logits, greedy, prefill, random_ids
from tests.model.small_checkpoints import longrope, make_small_checkpoint
from tests.model.small_oracle import NEVER_GENERATED_IDS, SmallOracle
from tests.networks import load_network

MakeSmall = Callable[..., Path]

SHAPES: dict[str, dict[str, Any]] = {
    "per-head pattern, dense every second layer": {},
    "homogeneous pattern": {"blocksparse_homo_head_pattern": True},
    "steps of more than one block": {"num_attention_heads": 2, "blocksparse_vert_stride": 7},
    "all layers sparse": {"dense_attention_every_n_layers": None},
    "all layers dense": {"dense_attention_every_n_layers": 1},
    "one local block": {"blocksparse_num_local_blocks": 1},
    "mha": {"num_key_value_heads": 8},
    "head dim 128": {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 1},
    "gegelu that reaches its limit": {"gegelu_limit": 1.5},
    "gegelu without a limit": {"gegelu_limit": None},
    "muP off": {
        "mup_use_scaling": False,
        "mup_embedding_multiplier": 1.0,
        "mup_width_multiplier": 1.0,
    },
    "other multipliers": {
        "mup_attn_multiplier": 2.0,
        "mup_embedding_multiplier": 3.0,
        "mup_width_multiplier": 5.0,
    },
    "odd widths": {"ff_intermediate_size": 57, "vocab_size": 301},
    "scaled positions": {"rope_position_scale": 0.25},
    "two blocks of 32": {"blocksparse_block_size": 32},
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> MakeSmall:
    """`make_small_checkpoint` without the path; equal arguments give the same folder."""
    root = tmp_path_factory.mktemp("small")

    def make(**overrides: Any) -> Path:
        key = repr(sorted(overrides.items()))
        path = root / hashlib.sha256(key.encode()).hexdigest()[:16]
        return path if path.exists() else make_small_checkpoint(path, **overrides)

    return make


def assert_logits(path: Path, num_tokens: int, tolerance: float = 1e-4) -> None:
    ids = random_ids(num_tokens)
    actual = all_logits(load_network(path), ids)
    assert oracle.relative_error(actual, SmallOracle(path).logits(ids)) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_a_dense_computation(small: MakeSmall, shape: str) -> None:
    assert_logits(small(**SHAPES[shape]), 150)


def test_a_pattern_of_the_real_size(small: MakeSmall) -> None:
    """Heads, groups and blocks of the released models, beyond their 1024 local tokens."""
    path = small(
        hidden_size=512,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=2,
        blocksparse_block_size=64,
        blocksparse_num_local_blocks=16,
        blocksparse_vert_stride=8,
        max_position_embeddings=2048,
    )
    assert_logits(path, 21 * 64 + 5)


@pytest.mark.parametrize(
    "other",
    [
        {"blocksparse_homo_head_pattern": True},
        {"dense_attention_every_n_layers": 1},
        {"blocksparse_num_local_blocks": 3},
        {"blocksparse_vert_stride": 5},
    ],
)
def test_patterns_differ(small: MakeSmall, other: dict[str, Any]) -> None:
    """Guards the tests above: another pattern would fail them by orders of magnitude."""
    ids = random_ids(150)
    logits, others = (all_logits(load_network(path), ids) for path in (small(), small(**other)))
    assert oracle.relative_error(others, logits) > 0.01


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 31, 32, 33, 48, 49])
def test_block_edges(small: MakeSmall, num_tokens: int) -> None:
    assert_logits(small(), num_tokens)


@pytest.mark.parametrize(
    "more", [{}, {"short_mscale": 1.05, "long_mscale": 1.3}, {"type": "longrope"}]
)
@pytest.mark.parametrize("num_tokens", [1, 32, 33, 100])
def test_longrope_by_the_sequence_length(
    small: MakeSmall, num_tokens: int, more: dict[str, Any]
) -> None:
    """The short set has no attention factor unless one is given, unlike Phi-3's."""
    assert_logits(small(rope_scaling=longrope(16, 32, **more)), num_tokens)


def test_the_sets_of_longrope_differ(small: MakeSmall) -> None:
    """Guards the test above."""
    network = load_network(small(original=32))
    ids = random_ids(33)
    assert (
        oracle.relative_error(all_logits(network, ids)[:32], all_logits(network, ids[:32])) > 0.01
    )


def test_greedy_across_the_boundary(small: MakeSmall) -> None:
    path = small(original=32)
    ids = random_ids(28)
    tokens, num_recomputed = greedy(load_network(path), ids, 12)
    assert tokens == SmallOracle(path).greedy(ids, 12)
    assert num_recomputed == 1


def test_bfloat16_is_near(small: MakeSmall) -> None:
    path = small(dtype="bfloat16")
    network = load_network(path)
    assert network.dtype == torch.bfloat16
    ids = random_ids(100)
    actual, expected = all_logits(network, ids), SmallOracle(path).logits(ids)
    assert oracle.relative_error(actual, expected) < 0.05


def test_dummy_tokens_are_impossible(small: MakeSmall) -> None:
    path = small(vocab_size=100352, hidden_size=32, num_attention_heads=2, num_key_value_heads=1)
    logits = all_logits(load_network(path), random_ids(5))
    assert set(torch.nonzero(logits[0].isneginf()).flatten().tolist()) == NEVER_GENERATED_IDS
    expected = SmallOracle(path).logits(random_ids(5))
    possible = ~expected[0].isneginf()
    assert oracle.relative_error(logits[:, possible], expected[:, possible]) < 1e-4


def test_an_untied_head_is_used(small: MakeSmall, tmp_path: Path) -> None:
    path = make_small_checkpoint(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, path / "model.safetensors")
    ids = random_ids(9)
    tied = all_logits(load_network(small()), ids)
    assert all_logits(load_network(path), ids).equal(tied.flip(1))


def test_sequence_classification(small: MakeSmall) -> None:
    path = small(num_labels=3)
    network = load_network(path)
    assert network.heads == {"sequence-classification"}
    ids = random_ids(70)
    scores = network.scores(prefill(network, ids), torch.arange(70, dtype=torch.int32))
    assert oracle.relative_error(scores.cpu(), SmallOracle(path).scores(ids)) < 1e-4


@pytest.fixture(params=DTYPES)
def network(request: pytest.FixtureRequest, small: MakeSmall) -> Phi3SmallNetwork:
    network = load_network(small(original=32), request.param)
    assert isinstance(network, Phi3SmallNetwork)
    return network


def test_mixed_batch_equals_each_alone(network: Phi3SmallNetwork) -> None:
    sequences = [random_ids(n, seed=n) for n in (10, 90, 32, 1, 33, 65)]
    pages = Pages(network, 40, seed=5)
    chunks = [
        Chunk(ids, 0, network.config.rope_set(len(ids)), pages.take(len(ids))) for ids in sequences
    ]
    h = network.forward(ModelInput.pack(chunks), pages.kv).clone()
    for ids, part in zip(sequences, h.split([len(ids) for ids in sequences]), strict=True):
        assert part.equal(prefill(network, ids))
    rows = torch.arange(len(h), dtype=torch.int32)
    all_rows = network.logits(h, rows).clone()
    for row in (0, 40, len(h) - 1):
        assert network.logits(h, rows[row : row + 1])[0].equal(all_rows[row])


@pytest.mark.parametrize("chunk_len", [1, 7, 16, 17, 100])
@pytest.mark.parametrize("num_tokens", [32, 130])
def test_chunked_prefill_equals_one_shot(
    network: Phi3SmallNetwork, chunk_len: int, num_tokens: int
) -> None:
    ids = random_ids(num_tokens)
    assert prefill(network, ids, chunk_len=chunk_len, seed=3).equal(prefill(network, ids))
