"""What steps need besides pages is bounded, and bounding it changes no bit."""

from __future__ import annotations

import gc
import random
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import Tensor

from phi3svc.engine import core as core_module
from phi3svc.engine import runner as runner_module
from phi3svc.engine.decode_loop import DecodeLoop
from phi3svc.engine.request import SamplingParams
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, run
from tests.engine.requests import generate
from tests.networks import load_network


@pytest.fixture(autouse=True)
def queue_whatever_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MAX_QUEUED_S", "_MAX_QUEUED_ON_DEVICE_S"):
        monkeypatch.setattr(core_module, name, float("inf"))


def loops_of(network: Network) -> list[DecodeLoop]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is DecodeLoop]


def test_a_climbing_load_leaves_no_loop_with_smaller_workspaces(tiny: Path) -> None:
    network = load_network(tiny)
    core = make_core(network, max_draft_tokens=0)
    seen: list[int] = []
    answers: list[Answer] = []
    for num_sequences in (1, 2, 3, 4, 5, 6, 1):
        requests = [generate(f"r{i}", [i + 1, 2], 5) for i in range(num_sequences)]
        answers.append(run(core, [*requests])["r0"])
        seen.append(len(loops_of(network)))
    assert all(answer == answers[0] for answer in answers)
    # At 2, 3 and 5 sequences workspaces grow; then the loops of fewer are there no more.
    assert [seen[num - 1] for num in (1, 2, 3, 5)] == [1, 1, 1, 1]
    assert seen[-1] == 3  # 5, 6 and 1


def test_logits_are_computed_a_portion_at_a_time(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(tiny)
    requests = [
        generate(
            f"r{i}",
            [i + 1, 7],
            6,
            sampling=SamplingParams(temperature=0.8 * (i % 2), seed=i, logit_bias={i: 0.5}),
            num_top_logprobs=i % 3,
        )
        for i in range(7)
    ]
    expected = run(make_core(network), [*requests])
    num_rows: list[int] = []
    logits = network.logits

    def count(h: Tensor, rows: Tensor) -> Tensor:
        num_rows.append(len(rows))
        return logits(h, rows)

    monkeypatch.setattr(network, "logits", count)
    monkeypatch.setattr(runner_module, "MAX_LOGIT_ROWS", 3)
    assert run(make_core(network), [*requests]) == expected
    assert num_rows[:6] == [3, 3, 1] * 2


def test_a_portion_keeps_a_sequences_guesses_together() -> None:
    generator = random.Random(0)
    for _ in range(50):
        nums = [generator.choice([1, 1, 17, 65]) for _ in range(generator.randrange(1, 40))]
        chunks = [SimpleNamespace(wanted_rows=range(num)) for num in nums]
        portions = list(runner_module._portions(chunks))  # type: ignore[arg-type]
        assert list(chain.from_iterable(portions)) == chunks
        sizes = [sum(len(chunk.wanted_rows) for chunk in portion) for portion in portions]
        assert 0 < min(sizes) <= max(sizes) <= 256
