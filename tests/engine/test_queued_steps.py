"""Steps that begin by themselves behind the one before change when things happen, and no bit."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from phi3svc.engine import core as core_module
from phi3svc.engine.batch import to_model_input
from phi3svc.engine.chunks import Batch
from phi3svc.engine.decode_loop import DecodeLoop, DecodeRun
from phi3svc.engine.drafter import Drafter
from phi3svc.engine.events import FailedEvent
from phi3svc.engine.request import Request, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.model.inputs import ModelInput
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, mixed_requests, poison, run, run_alone
from tests.engine.requests import generate
from tests.engine.test_scheduler import Harness
from tests.model.decoding import random_ids
from tests.networks import load_network


@pytest.fixture(scope="module", params=["not begun", "left unread"])
def network(tiny: Path, request: pytest.FixtureRequest) -> Network:
    """What becomes of a step that was not to be: on a CPU it is not begun, on CUDA left unread.

    That is decided in Python, and here on a CPU as well.
    """
    network = load_network(tiny)
    if request.param == "not begun" and network.backend == "cuda":
        pytest.skip("a CUDA device begins all steps")
    if request.param == "left unread":
        network.backend = "cuda"
    return network


class Queued:
    """Counts queued steps: those that ran, and those that gave way."""

    def __init__(self) -> None:
        self.num_run = self.num_void = 0


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queued]:
    counts, wait, begin_behind = Queued(), DecodeRun.wait, DecodeLoop.begin_behind
    begun: list[DecodeRun] = []
    # However slow the machine is today.
    monkeypatch.setattr(core_module, "_MAX_QUEUED_S", float("inf"))
    monkeypatch.setattr(core_module, "_MAX_QUEUED_ON_DEVICE_S", float("inf"))

    def noting(loop: DecodeLoop, before: DecodeRun, batch: Batch) -> DecodeRun:
        begun.append(begin_behind(loop, before, batch))
        return begun[-1]

    def counting(step: DecodeRun) -> object:
        outputs = wait(step)
        if any(step is queued for queued in begun):
            counts.num_run += outputs is not None
            counts.num_void += outputs is None
        return outputs

    monkeypatch.setattr(DecodeLoop, "begin_behind", noting)
    monkeypatch.setattr(DecodeRun, "wait", counting)
    return counts


def unqueued(
    network: Network, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Answer]:
    with monkeypatch.context() as patch:
        patch.setattr(core_module, "_MAX_QUEUED", 0)
        return run(make_core(network, max_draft_tokens=0), requests)


@pytest.mark.parametrize("all_at_once", [True, False])
def test_queued_steps_change_no_bit(
    network: Network, queued: Queued, monkeypatch: pytest.MonkeyPatch, all_at_once: bool
) -> None:
    """Sequences that end in turn and cross the LongRoPE boundary, alone and together."""
    requests = mixed_requests(6, num_new=40)
    expected = unqueued(network, requests, monkeypatch)
    assert queued.num_run == 0
    core = make_core(network, max_draft_tokens=0)
    assert run(core, requests, all_at_once=all_at_once) == expected
    assert queued.num_run > 20


def test_a_step_behind_a_stop_token_is_void(
    network: Network, queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of one sequence is seen in time, whichever row it has, and the others go on."""
    sampling = [SamplingParams(temperature=1.0, seed=seed) for seed in range(4)]
    free = [generate(f"r{i}", [i + 1, 2, 3], 40, sampling=s) for i, s in enumerate(sampling)]
    drawn = unqueued(network, free, monkeypatch)
    requests: list[Request] = []
    for i, s in enumerate(sampling):
        stop_id = drawn[f"r{i}"].token_ids[7 + 5 * i]
        requests.append(
            generate(f"r{i}", [i + 1, 2, 3], 40, sampling=s, stop_token_ids=(stop_id, 298))
        )
    expected = unqueued(network, requests, monkeypatch)
    assert {answer.finish for answer in expected.values()} == {"stop_token"}
    assert run(make_core(network, max_draft_tokens=0), requests) == expected
    assert queued.num_void > 0
    assert queued.num_run > 0


def test_a_prompt_may_end_with_a_stop_token(network: Network, queued: Queued) -> None:
    sampling = SamplingParams(temperature=1.0, seed=3)
    request = generate("a", [5], 20, sampling=sampling, stop_token_ids=(5,))
    answer = run(make_core(network, max_draft_tokens=0), [request])["a"]
    assert len(answer.token_ids) > 1
    assert queued.num_run > 0


def test_what_a_loop_cannot_sample_is_not_queued(network: Network, queued: Queued) -> None:
    requests: list[Request] = [
        generate("penalty", [1, 2], 9, sampling=SamplingParams(repetition_penalty=1.3)),
        generate("bias", [1, 2], 9, sampling=SamplingParams(logit_bias={3: 1.0})),
        generate("minimum", [1, 2], 9, stop_token_ids=(3,), min_new_tokens=9),
        generate("top", [1, 2], 9, num_top_logprobs=2),
        generate("stops", [1, 2], 9, stop_token_ids=tuple(range(200, 217))),
    ]
    for request in requests:
        run(make_core(network, max_draft_tokens=0), [request])
        assert queued.num_run == queued.num_void == 0, request.request_id


def test_requests_come_and_go_while_steps_are_queued(network: Network, queued: Queued) -> None:
    requests = mixed_requests(6, num_new=30)
    expected = run_alone(network, requests)
    core = make_core(network, max_draft_tokens=0)
    answers = {request.request_id: Answer() for request in requests}
    for request in requests[:4]:
        core.add(request)
    for i in range(200):
        if i == 8:
            core.cancel("r1")
        if i == 11:
            core.add(requests[4])
        if i == 12:
            core.cancel("r2")
            core.add(requests[5])
        for event in core.step() if core.has_work else []:
            answers[event.request_id].take(event)
    for name in ("r0", "r3", "r4", "r5"):
        assert answers[name] == expected[name], name
    for name in ("r1", "r2"):
        assert answers[name].finish is None
        known = answers[name].token_ids
        assert 0 < len(known) < 30
        assert known == expected[name].token_ids[: len(known)]
    assert core.num_free_blocks == 512
    assert queued.num_run > 0


def test_a_request_loses_its_blocks_while_a_step_of_it_runs(
    network: Network, queued: Queued
) -> None:
    """Its reader falls behind and catches up between two steps; its place is another's by then."""
    requests = [generate(name, random_ids(15, seed=i), 30) for i, name in enumerate("abc")]
    expected = run_alone(network, requests)
    core = make_core(network, max_draft_tokens=0, max_sequences=2)
    answers = {name: Answer() for name in "abc"}

    def step(num_steps: int) -> None:
        for _ in range(num_steps):
            for event in core.step():
                answers[event.request_id].take(event)

    core.add(requests[0])
    core.add(requests[2])
    step(2)
    core.pause("c")
    core.add(requests[1])
    step(6)
    assert core._queued is not None
    num_told = len(answers["a"].token_ids)
    core.pause("a")
    core.resume("c")
    core.resume("a")
    step(1)
    assert len(answers["a"].token_ids) == num_told, "its step was for nothing"
    while core.has_work:
        step(1)
    assert answers == expected
    assert core.num_free_blocks == 512


def test_a_step_under_way_can_be_told_of_before_a_pause(network: Network, queued: Queued) -> None:
    request = generate("a", [1, 2, 3], 30)
    (expected,) = run_alone(network, [request]).values()
    core, answer = make_core(network, max_draft_tokens=0), Answer()
    core.add(request)
    for _ in range(6):
        for event in core.step():
            answer.take(event)
    assert core._queued is not None
    (event,) = core.drain()
    answer.take(event)
    assert core.drain() == []
    core.pause("a")
    assert not core.has_work
    core.resume("a")
    while core.has_work:
        for event in core.step():
            answer.take(event)
    assert answer == expected


def test_when_all_are_cancelled_the_next_request_is_answered(
    network: Network, queued: Queued
) -> None:
    core = make_core(network, max_draft_tokens=0)
    core.add(generate("a", [1, 2, 3], 30))
    for _ in range(6):
        core.step()
    core.cancel("a")
    assert core.step() == []
    assert not core.has_work
    request = generate("b", [4, 5, 6], 12)
    assert run(core, [request]) == run_alone(network, [request])
    assert queued.num_run > 0


@pytest.mark.cpu_only
def test_a_queued_step_that_fails_fails_its_batch_and_no_more(
    network: Network,
    queued: Queued,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = make_core(network, max_draft_tokens=0)
    core.add(generate("a", [1, 2, 3], 30))
    core.add(generate("b", [3, 2], 30))
    for _ in range(4):
        core.step()
    go_on_from = ModelInput.go_on_from

    def broken(inputs: ModelInput, before: ModelInput, tables: object) -> None:
        go_on_from(inputs, before, tables)
        inputs.slots[1] = -1

    with monkeypatch.context() as patch:
        patch.setattr(ModelInput, "go_on_from", broken)
        events = core.step()
    while not any(isinstance(event, FailedEvent) for event in events):
        events = core.step()
    assert {event.request_id for event in events} == {"a", "b"}
    assert "qkv_rope: slots[1] is -1" in caplog.text
    assert not core.has_work
    assert core.num_free_blocks == 512
    request = generate("c", [4, 5, 6], 12)
    assert run(core, [request]) == run_alone(network, [request])


def test_a_row_of_nan_fails_its_request_alone(tiny: Path, queued: Queued) -> None:
    network = load_network(tiny)
    requests = mixed_requests(5, num_new=24)
    expected = run_alone(network, requests)
    victim = expected["r1"].token_ids
    others = {token_id for request in requests for token_id in request.prompt_ids}
    others.update(*(expected[f"r{i}"].token_ids for i in (0, 2, 3, 4)))
    poisoned = next(
        token_id
        for i, token_id in enumerate(victim[4:], 4)
        if token_id not in victim[:i] and token_id not in others
    )
    poison(network, poisoned)
    answers = run(make_core(network, max_draft_tokens=0), requests)
    failed = answers.pop("r1")
    assert failed.failure is not None
    assert failed.token_ids == victim[: victim.index(poisoned) + 1]
    del expected["r1"]
    assert answers == expected
    assert queued.num_run > 0


def test_a_core_can_be_dropped_while_a_step_runs(tiny: Path, queued: Queued) -> None:
    core = make_core(load_network(tiny), max_draft_tokens=0)
    core.add(generate("a", [1, 2, 3], 30))
    for _ in range(5):
        core.step()
    assert queued.num_run > 0
    del core
    gc.collect()


def test_a_process_can_end_while_a_step_runs(tiny: Path) -> None:
    code = f"""
from pathlib import Path
from tests.engine.core_runs import make_core
from tests.engine.requests import generate
from tests.networks import load_network
core = make_core(load_network(Path({str(tiny)!r})), max_draft_tokens=0)
for i in range(8):
    core.add(generate(f"r{{i}}", [i, 2, 3], 60))
for _ in range(9):
    core.step()
assert core._queued is not None
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_inputs_go_on_as_they_would_be_packed(network: Network) -> None:
    """Token for token across pages: positions, slots, tables and all."""
    core = make_core(network, max_draft_tokens=0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    begin_behind = DecodeLoop.begin_behind

    def checking(loop: DecodeLoop, before: DecodeRun, batch: Batch) -> DecodeRun:
        step = begin_behind(loop, before, batch)
        for chunk in batch.chunks:  # as they will be, with any token
            chunk.sequence.token_ids.append(0)
        packed = to_model_input(batch, 16)
        for chunk in batch.chunks:
            chunk.sequence.token_ids.pop()
        t = loop.shape.num_tokens
        seen.append((loop._halves[step.half].inputs.data[t:].clone(), packed.data[t:]))
        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodeLoop, "begin_behind", checking)
        patch.setattr(core_module, "_MAX_QUEUED_S", float("inf"))
        patch.setattr(core_module, "_MAX_QUEUED_ON_DEVICE_S", float("inf"))
        run(core, [generate(f"r{n}", random_ids(n, seed=n), 24) for n in (1, 5, 14, 36)])
    assert len(seen) > 15
    for found, packed in seen:
        assert found.tolist() == packed.tolist()


class TestContinued:
    """`Scheduler.continued` says what `schedule` would."""

    def test_it_is_what_is_scheduled_next(self) -> None:
        h = Harness(num_blocks=40, max_draft_tokens=0, original_len=20, max_sequences=4)
        h.add(generate("a", [1, 2, 3], 30))
        h.add(generate("b", [4] * 9, 20, stop_token_ids=(7, 11, 50)))
        h.add(generate("c", [5] * 6, 25, n=2))
        num_continued = 0
        while h.scheduler.has_work:
            batch = h.scheduler.schedule()
            following = h.scheduler.continued(batch)
            h.scheduler.commit(batch, h.runner.run(batch))
            if following is not None and not any(c.sequence.has_ended for c in batch.chunks):
                num_continued += 1
                assert spans(h.scheduler.schedule()) == spans(following)
        assert num_continued > 10

    def decoding(self, max_new_tokens: int = 12, **settings: int) -> tuple[Harness, Batch]:
        """A sequence of three prompt tokens, and the batch that computes its fourth."""
        h = Harness(max_draft_tokens=0, **settings)
        h.add(generate("a", [1, 2, 3], max_new_tokens))
        h.step()
        return h, h.scheduler.schedule()

    def test_of_a_sequence_that_goes_on_it_is_the_next_token(self) -> None:
        h, batch = self.decoding()
        following = h.scheduler.continued(batch)
        assert following is not None
        assert [(start, end) for _, start, end, _ in spans(following)] == [(4, 5)]

    @pytest.mark.parametrize(
        "settings",
        [{"max_new_tokens": 2}, {"context_len": 5}, {"original_len": 4}, {"num_blocks": 2}],
        ids=["it ends", "the context ends", "LongRoPE changes", "there may be no block"],
    )
    def test_nothing_is_said_where_the_next_step_is_another(self, settings: dict[str, int]) -> None:
        h, batch = self.decoding(**settings)
        assert h.scheduler.continued(batch) is None

    def test_nothing_is_said_of_prompts(self) -> None:
        h = Harness(max_draft_tokens=0)
        h.add(generate("a", [1, 2, 3], 12))
        assert h.scheduler.continued(h.scheduler.schedule()) is None

    def test_nothing_is_said_when_a_request_waits_that_may_start(self) -> None:
        for max_sequences, is_said in ((2, False), (1, True)):
            h, batch = self.decoding(max_sequences=max_sequences)
            h.add(generate("b", [1], 2))
            assert (h.scheduler.continued(batch) is not None) == is_said

    def test_nothing_is_said_when_a_sequence_is_cancelled(self) -> None:
        h, batch = self.decoding()
        h.scheduler.cancel("a")
        assert h.scheduler.continued(batch) is None

    def test_nothing_is_said_where_a_guess_may_pay(self) -> None:
        h = Harness(max_draft_tokens=4)
        sequence = h.add(generate("a", [1, 2, 3], 12))
        h.step()
        batch = h.scheduler.schedule()
        drafter = sequence.drafter
        assert drafter is not None
        h.scheduler.observe(batch, 0.010)
        assert h.scheduler.continued(batch) is not None, "its text is all new"
        for rate, num_rested, is_said in ((1.0, 0, False), (1.0, 8, True), (0.0, 0, True)):
            sequence.drafter = Drafter()
            sequence.token_ids[:] = [1, 2, 1, 2]
            sequence.drafter.rate = rate
            sequence.drafter.rest(num_rested - 16)
            assert (h.scheduler.continued(batch) is not None) == is_said


def spans(batch: Batch) -> list[tuple[Sequence, int, int, range]]:
    return [(chunk.sequence, chunk.start, chunk.end, chunk.wanted_rows) for chunk in batch.chunks]
