"""Paused requests: no tokens, no work, blocks only while nobody needs them, the same answer."""

from __future__ import annotations

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.scheduler import Scheduler
from phi3svc.engine.sequence import Sequence
from tests.engine.fake_runner import FakeRunner
from tests.engine.requests import generate

BLOCK_SIZE = 4


class Bench:
    """A scheduler with its blocks and a clock."""

    def __init__(self, num_blocks: int = 16, max_sequences: int = 8) -> None:
        self.now_s = 0.0
        self.blocks = BlockManager(num_blocks, BLOCK_SIZE)
        config = EngineConfig(max_sequences=max_sequences, max_draft_tokens=0)
        self.scheduler = Scheduler(config, self.blocks, 64, lambda n: 0, clock=lambda: self.now_s)
        self.runner = FakeRunner(self.blocks)

    def add(self, request: GenerateRequest) -> Sequence:
        sequence = Sequence(request)
        self.scheduler.add(sequence)
        return sequence

    def step(self, num_steps: int = 1) -> None:
        for _ in range(num_steps):
            batch = self.scheduler.schedule()
            self.scheduler.commit(batch, self.runner.run(batch))

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def alone(request: GenerateRequest) -> list[int]:
    bench = Bench()
    sequence = bench.add(request)
    bench.run()
    return sequence.token_ids


def test_a_paused_request_alone_is_no_work(bench: Bench) -> None:
    sequence = bench.add(generate("a", [1, 2, 3], 10))
    bench.step(3)
    bench.scheduler.pause("a")
    assert not bench.scheduler.has_work
    assert bench.scheduler.next_deadline_s is None
    assert sequence.num_generated == 3
    bench.scheduler.resume("a")
    assert bench.scheduler.has_work
    bench.run()
    assert sequence.token_ids == alone(generate("a", [1, 2, 3], 10))


def test_resuming_computes_nothing_again(bench: Bench) -> None:
    sequence = bench.add(generate("a", [1] * 9, 10))
    bench.step(3)
    num_computed, table = sequence.num_computed, list(sequence.block_table)
    bench.scheduler.pause("a")
    assert (sequence.num_computed, list(sequence.block_table)) == (num_computed, table)
    bench.scheduler.resume("a")
    (chunk,) = bench.scheduler.schedule().chunks
    assert chunk.end - chunk.start == 1
    assert sequence.num_preemptions == 0


def test_every_answer_of_a_request_is_paused_also_those_not_begun(bench: Bench) -> None:
    leader = bench.add(generate("a", [1] * 9, 10, n=3))
    forks = list(leader.forks)
    batch = bench.scheduler.schedule()
    bench.scheduler.pause("a")
    bench.scheduler.commit(batch, bench.runner.run(batch))
    assert leader.num_generated == 1
    assert not bench.scheduler.has_work
    bench.scheduler.resume("a")
    bench.run()
    assert all(len(s.token_ids) == 19 for s in (leader, *forks))


def test_blocks_of_the_paused_are_the_first_to_go() -> None:
    bench = Bench(num_blocks=6)
    other = bench.add(generate("other", [2] * 5, 12))
    paused = bench.add(generate("paused", [1] * 9, 6))
    bench.step()
    bench.scheduler.pause("paused")
    bench.run()
    assert (other.num_preemptions, paused.num_preemptions) == (0, 1)


def test_newcomers_get_the_blocks_of_the_paused() -> None:
    bench = Bench(num_blocks=6)
    paused = bench.add(generate("paused", [1] * 9, 6))
    other = bench.add(generate("other", [2] * 5, 12))
    bench.step(2)
    bench.scheduler.pause("paused")
    bench.step()
    assert paused.block_table
    newcomer = bench.add(generate("new", [3] * 8, 2))
    bench.run()
    assert other.has_ended
    assert other.num_preemptions == 0
    assert newcomer.has_ended
    assert not paused.block_table
    assert paused.num_preemptions == 1
    bench.scheduler.resume("paused")
    bench.run()
    assert paused.token_ids == alone(generate("paused", [1] * 9, 6))


def test_the_paused_take_no_place_from_those_that_run() -> None:
    bench = Bench(max_sequences=1)
    first = bench.add(generate("first", [1], 10))
    bench.step(2)
    bench.scheduler.pause("first")
    second = bench.add(generate("second", [2], 10))
    bench.step(2)
    assert second.num_generated == 2
    bench.scheduler.resume("first")
    assert bench.scheduler.num_running == 1
    bench.run()
    assert first.token_ids == alone(generate("first", [1], 10))


def test_a_deadline_counts_while_paused(bench: Bench) -> None:
    sequence = bench.add(generate("a", [1], 10, deadline_s=5.0))
    bench.step(2)
    bench.scheduler.pause("a")
    assert bench.scheduler.next_deadline_s == 5
    assert not bench.scheduler.has_work
    bench.now_s = 5.0
    assert bench.scheduler.has_work
    batch = bench.scheduler.schedule()
    assert (batch.expired, batch.chunks) == ([sequence], [])
    assert not bench.scheduler.has_work
    assert bench.blocks.num_free == 16


def test_unknown_ended_and_repeated_ones_are_ignored(bench: Bench) -> None:
    bench.scheduler.pause("nobody")
    bench.scheduler.resume("nobody")
    bench.add(generate("a", [1], 3))
    bench.step()
    bench.scheduler.pause("a")
    bench.scheduler.pause("a")
    bench.scheduler.cancel("a")
    bench.scheduler.resume("a")
    again = bench.add(generate("a", [1], 3))
    bench.run()
    assert again.num_generated == 3
