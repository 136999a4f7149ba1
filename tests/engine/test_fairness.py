"""Who is served when: tenants, priorities, deadlines; with a formula for a model."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.removable_heap import RemovableHeap
from phi3svc.engine.scheduler import Scheduler
from phi3svc.engine.sequence import Sequence
from tests.engine.fake_runner import FakeRunner
from tests.engine.requests import classify, generate


class Harness:
    """A scheduler with a clock of its own; blocks of 16 tokens, turns of 8."""

    def __init__(self, num_blocks: int = 1024, quantum: int = 8, **settings: object) -> None:
        self.blocks = BlockManager(num_blocks, 16)
        self.now_s = 0.0
        self.scheduler = Scheduler(
            EngineConfig(prefix_cache=False, **settings),  # type: ignore[arg-type]
            self.blocks,
            4096,
            lambda sequence_len: 0,
            quantum=quantum,
            clock=lambda: self.now_s,
        )
        self.runner = FakeRunner(self.blocks)
        self.started: list[str] = []

    def add(self, name: str, num_tokens: int = 4, num_new: int = 1, **fields: object) -> Sequence:
        request = generate(name, [1] * num_tokens, num_new, **fields)  # type: ignore[arg-type]
        sequence = Sequence(request)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> dict[str, int]:
        """Tokens computed for each tenant."""
        batch = self.scheduler.schedule()
        self.scheduler.commit(batch, self.runner.run(batch))
        counts: Counter[str] = Counter()
        for chunk in batch.chunks:
            if chunk.start == 0:
                self.started.append(chunk.sequence.request_id)
            counts[chunk.sequence.request.tenant] += chunk.num_tokens
        return dict(counts)

    def run(self) -> list[str]:
        """Names in the order they were started."""
        while self.scheduler.has_work:
            assert self.step()
        assert self.blocks.num_free == self.blocks.num_blocks
        return self.started


def test_tenants_share_the_prompt_tokens_whatever_they_queue() -> None:
    h = Harness(max_step_tokens=16)
    for i in range(20):
        h.add(f"a{i}", 32, tenant="a")
    h.add("b", 64, tenant="b")
    totals: Counter[str] = Counter()
    for _ in range(8):
        totals.update(h.step())
    assert totals == {"a": 64, "b": 64}
    assert h.step() == {"a": 16}, "who is alone gets everything"


def test_a_turn_goes_on_in_the_next_step() -> None:
    h = Harness(max_step_tokens=5)
    h.add("a", 100, tenant="a")
    h.add("b", 100, tenant="b")
    steps = [h.step() for _ in range(4)]
    assert steps == [{"a": 5}, {"a": 3, "b": 2}, {"b": 5}, {"b": 1, "a": 4}]


def test_weights_scale_the_shares() -> None:
    h = Harness(max_step_tokens=32, tenant_weights={"a": 3})
    h.add("a", 1000, tenant="a")
    h.add("b", 1000, tenant="b")
    assert [h.step() for _ in range(3)] == [{"a": 24, "b": 8}] * 3


def test_a_flood_delays_a_newcomer_by_one_that_runs_and_a_turn() -> None:
    """Also when it is places to run that are scarce, not tokens."""
    h = Harness(max_sequences=1, max_step_tokens=64)
    for i in range(50):
        h.add(f"a{i}", num_new=3, tenant="a")
    h.step()
    h.add("b", tenant="b")
    h.add("c", tenant="c")
    # Two prompts of 4 tokens make a turn.
    assert h.run()[:5] == ["a0", "a1", "a2", "b", "c"]


def test_the_urgent_start_first_then_those_with_the_nearest_deadline_then_the_oldest() -> None:
    h = Harness(max_sequences=1)
    h.add("plain")
    h.add("later", deadline_s=90.0)
    h.add("sooner", deadline_s=50.0)
    h.add("low", priority=-1, deadline_s=1e9)
    h.add("high", priority=100)
    h.add("second")
    assert h.run() == ["high", "sooner", "later", "plain", "second", "low"]


def test_priority_counts_for_nothing_against_another_tenant() -> None:
    h = Harness(max_sequences=1, max_step_tokens=8)
    for i in range(4):
        h.add(f"a{i}", 8, tenant="a", priority=100)
        h.add(f"b{i}", 8, tenant="b")
    assert [name[0] for name in h.run()] in (list("abababab"), list("aabbaabb"))


def test_a_stream_of_urgent_requests_starves_nobody() -> None:
    h = Harness(max_sequences=1)
    h.add("patient", priority=-100)
    num_steps = 0
    while "patient" not in h.started:
        h.add(f"urgent{num_steps}", priority=100, deadline_s=1e6)
        h.add(f"more{num_steps}", priority=100)
        h.step()
        num_steps += 1
        assert num_steps <= 8


def test_a_long_prompt_is_not_passed_for_ever_by_short_ones() -> None:
    """Its turn having come, blocks are left free for it."""
    h = Harness(num_blocks=8, max_step_tokens=64)
    h.add("a0", 48, num_new=40, tenant="a")
    h.step()
    long = h.add("long", 110, tenant="b")
    for i in range(60):
        h.add(f"a{i + 1}", num_new=4, tenant="a")
        h.step()
        if long.has_ended:
            break
    assert long.has_ended


def test_expired_requests_end_in_the_same_step_and_free_their_blocks() -> None:
    h = Harness(max_sequences=1, max_step_tokens=4)
    running = h.add("running", 40, deadline_s=10.0)
    waiting = h.add("waiting", deadline_s=10.0)
    other = h.add("other", deadline_s=11.0)
    h.now_s = 9.9
    h.step()
    assert h.blocks.num_free < h.blocks.num_blocks
    h.now_s = 10.0
    batch = h.scheduler.schedule()
    assert set(batch.expired) == {running, waiting}
    assert running.has_ended
    assert waiting.has_ended
    assert [chunk.sequence for chunk in batch.chunks] == [other]
    assert h.blocks.num_free == h.blocks.num_blocks - 1
    h.now_s = 11.0
    batch = h.scheduler.schedule()
    assert (batch.chunks, batch.expired) == ([], [other])
    assert not h.scheduler.has_work
    assert h.blocks.num_free == h.blocks.num_blocks


def test_a_heap_forgets_what_was_taken_out_of_it() -> None:
    heap: RemovableHeap[int] = RemovableHeap()
    for i in range(10_000):
        heap.push(i, (i,))
        heap.discard(i)
        heap.discard(i)
    assert len(heap._entries) <= 20
    assert heap.first() is None
    for i in (5, 3, 4):
        heap.push(i, (i % 2, i))
    heap.discard(4)
    assert heap.first() == ((1, 3), 3)
    assert len(heap) == 2


@pytest.mark.parametrize("num_tenants", [1, 1000])
def test_a_thousand_that_wait_cost_a_step_next_to_nothing(num_tenants: int) -> None:
    """Sixteen decode; every place is taken. Far above what is measured, for slow machines."""
    h = Harness(max_sequences=16)
    for i in range(16):
        h.add(f"r{i}", num_new=300)
    h.step()
    for i in range(1000):
        tenant = f"t{i % num_tenants}"
        h.scheduler.add(Sequence(classify(f"w{i}", [1] * 4, tenant=tenant), 3))
    best_s = 1.0
    for _ in range(50):
        start_s = time.perf_counter()
        batch = h.scheduler.schedule()
        best_s = min(best_s, time.perf_counter() - start_s)
        h.scheduler.commit(batch, h.runner.run(batch))
    assert len(batch.chunks) == 16
    assert best_s < 1e-3
