"""LongRoPE per sequence: a batch on both sides of the boundary, some crossing it as they decode.

Up to the original length a sequence has the short factors, beyond it the long ones, and crossing
means to compute it again. Each one's tokens and logprobs are bit for bit those of its run alone,
and those of transformers at batch 1. What a crossing costs is printed.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi3svc.config.checkpoint import EMBEDDED_DIR
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import TokenEvent
from phi3svc.engine.request import Request, SamplingParams
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, run, run_alone
from tests.engine.requests import GREEDY, generate
from tests.model import oracle
from tests.model.checkpoints import make_tiny_causal
from tests.networks import load_network

NUM_NEW = 20
OFFSETS = (-31, -19, -12, -7, -7, -1, 0, 1, 13)
"""Prompt lengths from the boundary. Those of -12 to 0 cross it, and the twins in one step."""


@dataclass(frozen=True)
class Model:
    path: Path
    network: Network
    boundary: int

    def prompt(self, num_tokens: int, seed: int) -> list[int]:
        generator = random.Random(seed)
        return [generator.randrange(256) for _ in range(num_tokens)]

    def requests(self, sampling: SamplingParams = GREEDY) -> list[Request]:
        return [
            generate(f"{i}", self.prompt(self.boundary + offset, i), NUM_NEW, sampling=sampling)
            for i, offset in enumerate(OFFSETS)
        ]


@pytest.fixture(scope="module", params=["random", "demo"])
def model(request: pytest.FixtureRequest, tiny: Path) -> Model:
    path = tiny if request.param == "random" else EMBEDDED_DIR / "demo"
    network = load_network(path, "float32")
    boundary = next(n for n in range(1, 1024) if network.config.rope_set(n + 1) == 1)
    return Model(path, network, boundary)


@pytest.fixture(scope="module")
def theirs(model: Model) -> Any:
    return oracle.load(model.path, "float32")


def rope_sets_per_step(
    core: EngineCore, model: Model, requests: list[Request]
) -> list[dict[str, int]]:
    """With which factor set each step computed the token of whom."""
    num_tokens = {request.request_id: len(request.prompt_ids) for request in requests}
    for request in requests:
        core.add(request)
    found = []
    while core.has_work:
        sets = {}
        for event in core.step():
            assert isinstance(event, TokenEvent)
            sets[event.request_id] = model.network.config.rope_set(num_tokens[event.request_id])
            num_tokens[event.request_id] += len(event.token_ids)
        found.append(sets)
    return found


def test_the_batch_is_on_both_sides_at_once(model: Model) -> None:
    """Guards the tests below: most steps have short and long factors side by side."""
    core = make_core(model.network, max_draft_tokens=0)
    steps = rope_sets_per_step(core, model, model.requests())
    assert sum(set(step.values()) == {0, 1} for step in steps) >= 15
    short, long = ({name for step in steps for name in step if step[name] == s} for s in (0, 1))
    assert short & long == {"2", "3", "4", "5", "6"}
    assert "1" in short, "its last token lies beyond the boundary and is never computed"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_step_tokens", [24, 2048])
@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_each_equals_its_run_alone_to_the_bit(
    model: Model, temperature: float, max_step_tokens: int, all_at_once: bool, prefix_cache: bool
) -> None:
    requests = model.requests(SamplingParams(temperature, seed=5))
    core = make_core(model.network, max_step_tokens=max_step_tokens, prefix_cache=prefix_cache)
    assert run(core, requests, all_at_once=all_at_once) == run_alone(model.network, requests)


def test_each_equals_transformers_at_batch_1(model: Model, theirs: Any) -> None:
    """Greedy tokens; and the logprob of each, from logits of the whole text up to there."""
    requests = model.requests()
    answers = run(make_core(model.network, max_step_tokens=40), requests)
    distinct = set()
    for request in requests:
        answer = answers[request.request_id]
        assert answer.token_ids == oracle.greedy(theirs, request.prompt_ids, NUM_NEW)
        assert answer.logprobs == pytest.approx(
            logprobs(theirs, request.prompt_ids, answer), abs=2e-4
        )
        distinct |= set(answer.token_ids)
    assert len(distinct) > 20, "answers that say one thing forever test nothing"


def logprobs(theirs: Any, prompt_ids: list[int], answer: Answer) -> list[float]:
    token_ids = prompt_ids + answer.token_ids
    found = []
    for end in range(len(prompt_ids), len(token_ids)):
        row = oracle.logits(theirs, token_ids[:end])[-1].double().log_softmax(-1)
        found.append(row[token_ids[end]].item())
    return found


def test_the_wrong_factors_would_show(model: Model, theirs: Any) -> None:
    """Guards the test above: one token more, and every earlier logit is another one."""
    token_ids = model.prompt(model.boundary + 1, seed=0)
    short = oracle.logits(theirs, token_ids[:-1])[-1].log_softmax(-1)
    long = oracle.logits(theirs, token_ids)[-2].log_softmax(-1)
    assert (short - long).abs().max() > 0.02


# The cost ----------------------------------------------------------------------------------------

NUM_NEIGHBOURS = 4


@dataclass
class Crossing:
    """A sequence crossed at `length` tokens beside neighbours; seconds.

    ordinary_s: median step before. steps_s: of each step until the crosser had its next token.
    """

    length: int
    max_step_tokens: int
    ordinary_s: float
    steps_s: list[float]


def measure_crossing(network: Network, length: int, max_step_tokens: int) -> Crossing:
    """Checks on the way that every neighbour gets its token in every step."""
    core = make_core(
        network, max_step_tokens=max_step_tokens, prefix_cache=False, max_draft_tokens=0
    )
    generator = random.Random(0)
    for i in range(NUM_NEIGHBOURS):
        core.add(generate(f"n{i}", [i + 1], 200))
    prompt_ids = [generator.randrange(256) for _ in range(length - 12)]
    core.add(generate("crosser", prompt_ids, 30))
    neighbours = {f"n{i}" for i in range(NUM_NEIGHBOURS)}
    num_tokens, ordinary, crossing = len(prompt_ids), [], []
    while num_tokens < length + 10:
        started_s = time.perf_counter()
        events = core.step()
        seconds = time.perf_counter() - started_s
        named = [event.request_id for event in events if isinstance(event, TokenEvent)]
        if num_tokens > len(prompt_ids):
            assert sorted(set(named) - {"crosser"}) == sorted(neighbours), "a neighbour waited"
        assert len(named) == len(set(named))
        has_crosser = "crosser" in named
        if num_tokens == length + 1:  # the first token beyond is known; all is computed again
            crossing.append(seconds)
        elif has_crosser and num_tokens > len(prompt_ids):
            ordinary.append(seconds)
        num_tokens += has_crosser
    for name in (*neighbours, "crosser"):
        core.cancel(name)
    return Crossing(length, max_step_tokens, statistics.median(ordinary), crossing)


def test_what_a_crossing_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sequence is computed again within the token budget, and no neighbour loses a token."""
    rows: list[tuple[str, Crossing]] = []
    demo = load_network(EMBEDDED_DIR / "demo", "float32")
    for max_step_tokens in (512, 32):
        for length in (32, 128, 512):
            path = make_tiny_causal(
                tmp_path / str(length), original=length, max_position_embeddings=1024
            )
            crossing = measure_crossing(load_network(path), length, max_step_tokens)
            rows.append(("random", crossing))
        rows.append(("demo", measure_crossing(demo, 128, max_step_tokens)))
    with capsys.disabled():
        print(f"\na sequence crosses its LongRoPE boundary beside {NUM_NEIGHBOURS} that decode:")
        print(
            f"{'model':>7} {'length':>7} {'tokens/step':>12} {'ordinary ms':>12} "
            f"{'crossing ms':>12} {'steps':>6} {'longest ms':>11}"
        )
        for name, row in rows:
            print(
                f"{name:>7} {row.length:>7} {row.max_step_tokens:>12} "
                f"{1e3 * row.ordinary_s:>12.2f} {1e3 * sum(row.steps_s):>12.2f} "
                f"{len(row.steps_s):>6} {1e3 * max(row.steps_s):>11.2f}"
            )
        print("every neighbour got its token in every one of these steps")
    for _, row in rows:
        budget = row.max_step_tokens - NUM_NEIGHBOURS
        assert len(row.steps_s) == math.ceil((row.length + 1) / budget)
