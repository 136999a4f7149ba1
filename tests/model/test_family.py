"""Every member of the family: its config as published, and scaled down against an oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.engine.request import Request, SamplingParams
from phi3svc.model.network import Network
from tests.engine.core_runs import make_core, run, run_alone
from tests.engine.requests import generate
from tests.model import oracle
from tests.model.checkpoints import make_checkpoint, to_old_dialect
from tests.model.decoding import all_logits, greedy, random_ids
from tests.model.family import FAMILY, SCALE, Member
from tests.model.small_checkpoints import make_small_checkpoint
from tests.model.small_oracle import SmallOracle
from tests.networks import load_network


class Phi3Oracle:
    """transformers."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._model = oracle.load(path, dtype)

    def logits(self, token_ids: list[int]) -> Tensor:
        return oracle.logits(self._model, token_ids)

    def greedy(self, token_ids: list[int], num_tokens: int) -> list[int]:
        return oracle.greedy(self._model, token_ids, num_tokens)


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.name)
def test_published_config(member: Member) -> None:
    config = Phi3Config.from_dict(member.config())
    assert config.num_params / 1e9 == pytest.approx(member.billion_params, abs=5e-5)
    assert (config.head_dim, config.rope.rotary_dim) == (member.head_dim, member.rotated)
    assert config.rope.theta == member.theta
    assert config.context_len == config.max_position_embeddings == member.max_positions
    assert config.sliding_window == member.window
    assert config.tie_word_embeddings == member.tied
    assert config.dtype == "bfloat16"
    is_long = member.rope_type is not None
    assert config.is_longrope == is_long
    assert config.rope_set(member.original) == 0
    assert config.rope_set(member.original + 1) == is_long
    assert len(config.rope.long_factor) == (member.rotated // 2 if is_long else 0)


@dataclass(frozen=True)
class Scaled:
    """A scaled-down member, in bfloat16 as published, and the lengths where it may go wrong."""

    member: Member
    path: Path

    @cached_property
    def network(self) -> Network:
        return load_network(self.path, "float32")

    @cached_property
    def exact(self) -> Phi3Oracle | SmallOracle:
        """transformers has no Phi-3-small, so a float64 computation stands in for it."""
        is_small = self.member.model_type == "phi3small"
        return SmallOracle(self.path) if is_small else Phi3Oracle(self.path, "float32")

    @property
    def edge(self) -> int:
        """Tokens up to which the short factors hold, or the longest sequence."""
        return min(self.member.original, self.member.max_positions) // SCALE

    @property
    def lengths(self) -> list[int]:
        beyond = [self.edge + 1, 2 * self.edge] if self.member.rope_type else []
        return [1, self.edge - 1, self.edge, *beyond]


@pytest.fixture(scope="module", params=FAMILY, ids=lambda member: member.name)
def scaled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scaled:
    member: Member = request.param
    path = tmp_path_factory.mktemp("family")
    make = make_small_checkpoint if member.model_type == "phi3small" else make_checkpoint
    return Scaled(member, make(path, **member.scaled()))


def test_shape_keeps_the_members_proportions(scaled: Scaled) -> None:
    """Guards the tests below."""
    full = Phi3Config.from_dict(scaled.member.config())
    config = scaled.network.config
    assert config.num_attention_heads * full.num_key_value_heads == (
        config.num_key_value_heads * full.num_attention_heads
    )
    assert config.num_key_value_heads > 1
    assert config.head_dim == full.head_dim
    assert config.rope.rotary_dim == full.rope.rotary_dim
    assert config.rope.short_factor == full.rope.short_factor
    assert config.rope.long_factor == full.rope.long_factor
    assert config.max_position_embeddings * full.original_max_position_embeddings == (
        config.original_max_position_embeddings * full.max_position_embeddings
    )


def test_both_dialects_load_alike(scaled: Scaled, tmp_path: Path) -> None:
    if scaled.member.model_type == "phi3small":
        pytest.skip("Microsoft's class was never part of transformers 5")
    (tmp_path / "config.json").write_bytes((scaled.path / "config.json").read_bytes())
    name = scaled.member.rope_type or "longrope"
    old = Phi3Config.from_dir(to_old_dialect(tmp_path, name))
    assert old.rope == scaled.network.config.rope
    assert old.dtype == "bfloat16"


def test_logits(scaled: Scaled) -> None:
    for length in scaled.lengths:
        ids = random_ids(length, seed=length)
        expected = scaled.exact.logits(ids)
        assert oracle.relative_error(all_logits(scaled.network, ids), expected) < 1e-4


def test_greedy_tokens(scaled: Scaled) -> None:
    """Across the boundary, if there is one, and through the sliding window."""
    ids = random_ids(scaled.edge - 12, seed=1)
    expected = scaled.exact.greedy(ids, 24)
    num_crossings = int(scaled.member.rope_type is not None)
    assert greedy(scaled.network, ids, 24) == (expected, num_crossings)
    assert len(set(expected)) > 4, "a prompt that says one thing forever tests nothing"


def test_bfloat16_errs_no_more_than_the_oracle_in_bfloat16(scaled: Scaled) -> None:
    network = load_network(scaled.path)
    theirs: Phi3Oracle | SmallOracle
    if scaled.member.model_type == "phi3small":
        theirs = SmallOracle(scaled.path, torch.bfloat16)
    else:
        theirs = Phi3Oracle(scaled.path, "bfloat16")
    for length in scaled.lengths[1:]:
        ids = random_ids(length, seed=length)
        exact = scaled.exact.logits(ids)
        error = oracle.relative_error(theirs.logits(ids), exact)
        assert oracle.relative_error(all_logits(network, ids), exact) < 2 * error


def test_engine_serves_each_as_if_alone(scaled: Scaled) -> None:
    network = load_network(scaled.path)
    generator = random.Random(0)
    requests: list[Request] = [
        generate(
            f"{i}",
            [generator.randrange(256) for _ in range(num_prompt)],
            8,
            sampling=SamplingParams(temperature=float(i % 2), seed=i),
        )
        for i, num_prompt in enumerate(
            [3, scaled.edge - 20, scaled.edge - 9, scaled.edge - 3, *scaled.lengths[3:]]
        )
    ]
    core = make_core(network, max_step_tokens=48)
    assert run(core, requests, all_at_once=False) == run_alone(network, requests)
