"""Whatever comes and goes: blocks add up, every request ends, with the answer of a run alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import structs

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.scheduler import Scheduler
from phi3svc.engine.sequence import Sequence
from phi3svc.engine.speculation import Speculation
from phi3svc.errors import Overloaded, PromptTooLong
from tests.engine.fake_runner import STOP_ID, FakeRunner, next_token
from tests.engine.requests import classify, generate

BLOCK_SIZE = 4
CONTEXT_LEN = 40


def expected_answer(
    request: GenerateRequest, index: int, context_len: int, original_len: int
) -> list[int]:
    """The whole sequence, by the definition of what a request gives."""
    ids = list(request.prompt_ids)
    while True:
        ids.append(next_token(ids, int(len(ids) > original_len), index))
        num_new = len(ids) - len(request.prompt_ids)
        if ids[-1] in request.stop_token_ids or num_new == request.max_new_tokens:
            return ids
        if len(ids) == context_len:
            return ids


class HalfRight(Speculation):
    """Guesses the truth up to some place, and then something else."""

    def __init__(self, context_len: int, original_len: int) -> None:
        super().__init__(4, context_len, lambda n: int(n > original_len))
        self.original_len = original_len

    def may_draft(self, sequence: Sequence) -> bool:
        return sequence.drafter is not None and sequence.num_tokens % 3 > 0

    def pays(self, sequences: list[Sequence], drafts: list[list[int]]) -> bool:
        return True

    def draft(self, sequence: Sequence, max_tokens: int, price: float) -> list[int]:
        ids = list(sequence.token_ids)
        for _ in range(min(max_tokens, self._max_len(sequence))):
            ids.append(next_token(ids, int(len(ids) > self.original_len), sequence.index))
        draft = ids[sequence.num_tokens :]
        num_right = sum(sequence.token_ids) % 6
        return [*draft[:num_right], *(token_id + 1 for token_id in draft[num_right:])]


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, cancels, pauses, resumes and steps in any order, some also in the middle of a step."""

    @initialize(
        num_blocks=st.integers(3, 10),
        max_step_tokens=st.integers(1, 24),
        max_sequences=st.integers(1, 6),
        original_len=st.integers(2, 40),
        prefix_cache=st.sampled_from([True, True, True, False]),
        quantum=st.integers(1, 12),
    )
    def begin(
        self,
        num_blocks: int,
        max_step_tokens: int,
        max_sequences: int,
        original_len: int,
        prefix_cache: bool,
        quantum: int,
    ) -> None:
        self.blocks = BlockManager(num_blocks, BLOCK_SIZE)
        config = EngineConfig(
            max_step_tokens=max_step_tokens,
            max_sequences=max_sequences,
            max_waiting_requests=6,
            max_waiting_tokens=80,
            prefix_cache=prefix_cache,
        )
        self.original_len = original_len
        self.scheduler = Scheduler(
            config,
            self.blocks,
            CONTEXT_LEN,
            lambda n: int(n > original_len),
            quantum=quantum,
            clock=lambda: self.now_s,
        )
        self.scheduler._speculation = HalfRight(self.scheduler.context_len, original_len)
        self.now_s = 0.0
        self.runner = FakeRunner(self.blocks)
        self.open: dict[tuple[str, int], Sequence] = {}
        self.num_added = 0
        self.paused: set[str] = set()

    @rule(
        # Short ones most of the time: several then run at once and outgrow the blocks together.
        # Few beginnings, so that many are shared.
        beginning=st.sampled_from([[], [], [1] * 5, [1, 2] * 4, [1, 2] * 8]),
        rest_ids=st.lists(st.integers(0, 9), min_size=1, max_size=6)
        | st.lists(st.integers(0, 9), min_size=1, max_size=44),
        max_new_tokens=st.integers(1, 30),
        kind=st.sampled_from(["generate", "generate", "tokens", "text"]),
        tenant=st.sampled_from(["", "", "other"]),
        priority=st.sampled_from([0, 0, 5]),
        deadline_s=st.none() | st.none() | st.integers(0, 60),
        n=st.sampled_from([1, 1, 1, 2, 4]),
    )
    def add(
        self,
        beginning: list[int],
        rest_ids: list[int],
        max_new_tokens: int,
        kind: str,
        tenant: str,
        priority: int,
        deadline_s: int | None,
        n: int,
    ) -> None:
        prompt_ids = beginning + rest_ids
        self.num_added += 1
        name = f"r{self.num_added}"
        if kind == "generate":
            request = generate(
                name, prompt_ids, max_new_tokens, stop_token_ids=(STOP_ID,), tenant=tenant, n=n
            )
        else:
            request = classify(name, prompt_ids, per_token=kind == "tokens", tenant=tenant)
        request = structs.replace(request, priority=priority, deadline_s=deadline_s)
        sequence = Sequence(request, len(prompt_ids) - 1)
        context_len = min(CONTEXT_LEN, self.blocks.num_blocks * BLOCK_SIZE)
        try:
            self.scheduler.add(sequence)
        except PromptTooLong:
            assert len(prompt_ids) + (kind == "generate") > context_len
        except Overloaded:
            assert self.scheduler.num_waiting > 0
        else:
            assert len(prompt_ids) + (kind == "generate") <= context_len
            for member in (sequence, *sequence.forks):
                self.open[name, member.index] = member

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._cancel_one(data)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self._pause_one(data)

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        # Also of one that has ended since, and twice.
        name = data.draw(st.sampled_from(sorted(self.paused)))
        self.paused.discard(name)
        self.scheduler.resume(name)
        self.scheduler.resume(name)

    @precondition(lambda self: self.scheduler.has_work)
    @rule(num_steps=st.integers(1, 12))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.scheduler.has_work:
                self._step(num_cancels=0)

    @precondition(lambda self: self.scheduler.has_work)
    @rule(data=st.data(), num_cancels=st.integers(0, 2), num_pauses=st.integers(0, 2))
    def step_and_meddle_in_its_middle(
        self, data: st.DataObject, num_cancels: int, num_pauses: int
    ) -> None:
        self._step(num_cancels, data, num_pauses)

    @invariant()
    def every_block_has_as_many_holders_as_are_counted(self) -> None:
        for sequence in self.open.values():
            assert len(sequence.block_table) == len(set(sequence.block_table))
        holders = Counter(b for s in self.open.values() for b in s.block_table)
        for block_id in range(self.blocks.num_blocks):
            assert self.blocks.num_holders(block_id) == holders[block_id]
            assert holders[block_id] <= 1 or self.blocks.is_cached(block_id)
        assert len(holders) + self.blocks.num_free == self.blocks.num_blocks

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # Each step computes at least one token. Preempted and crossing sequences compute theirs
        # again, but only after an older one took their blocks, which it needs for a new token.
        self._run_out()
        assert {name for name, _ in self.open} <= self.paused, "somebody waits for the paused"
        for name in self.paused:
            self.scheduler.resume(name)
        self.paused.clear()
        self._run_out()
        assert not self.open
        assert len(self.scheduler._roster._paused) == 0
        assert self.blocks.num_free == self.blocks.num_blocks
        assert sorted(self.blocks.allocate(self.blocks.num_blocks)) == list(
            range(self.blocks.num_blocks)
        )

    def _run_out(self) -> None:
        num_steps = 0
        while self.scheduler.has_work:
            num_steps += 1
            assert num_steps < 20_000, "somebody starves"
            self._step(num_cancels=0)

    def _step(
        self, num_cancels: int, data: st.DataObject | None = None, num_pauses: int = 0
    ) -> None:
        self.now_s += 1
        late = [
            sequence
            for sequence in self.open.values()
            if sequence.request.deadline_s is not None and sequence.request.deadline_s <= self.now_s
        ]
        batch = self.scheduler.schedule()
        told = [sequence.request_id for sequence in batch.expired]
        assert len(told) == len(set(told))
        assert set(told) == {sequence.request_id for sequence in late}
        for sequence in late:
            assert sequence.has_ended
            assert not sequence.block_table
            del self.open[sequence.request_id, sequence.index]
        assert not {chunk.sequence.request_id for chunk in batch.chunks} & self.paused
        assert batch.chunks or {name for name, _ in self.open} <= self.paused, "no progress"
        outputs = self.runner.run(batch)
        for _ in range(num_cancels):
            if self.open:
                assert data is not None
                self._cancel_one(data)
        for _ in range(num_pauses):
            if self.open:
                assert data is not None
                self._pause_one(data)
        self.scheduler.commit(batch, outputs)
        self._take_ended()

    def _pause_one(self, data: st.DataObject) -> None:
        name, _ = data.draw(st.sampled_from(sorted(self.open)))
        num_free = self.blocks.num_free
        self.scheduler.pause(name)
        assert self.blocks.num_free == num_free
        self.paused.add(name)

    def _cancel_one(self, data: st.DataObject) -> None:
        """A whole request, or one of its answers."""
        name, index = data.draw(st.sampled_from(sorted(self.open)))
        only = data.draw(st.sampled_from([None, index]))
        ended = [key for key in self.open if key[0] == name and only in (None, key[1])]
        sequences = [self.open.pop(key) for key in ended]
        held = Counter(b for sequence in sequences for b in sequence.block_table)
        own = [b for b, count in held.items() if self.blocks.num_holders(b) == count]
        num_free = self.blocks.num_free
        self.scheduler.cancel(name, only)
        assert all(sequence.has_ended for sequence in sequences)
        assert self.blocks.num_free == num_free + len(own)

    def _take_ended(self) -> None:
        for key, sequence in list(self.open.items()):
            if sequence.has_ended:
                del self.open[key]
                self._check_answer(sequence)

    def _check_answer(self, sequence: Sequence) -> None:
        request = sequence.request
        if isinstance(request, GenerateRequest):
            context_len = min(CONTEXT_LEN, self.blocks.num_blocks * BLOCK_SIZE)
            assert sequence.token_ids == expected_answer(
                request, sequence.index, context_len, self.original_len
            )
        elif request.per_token:
            assert sequence.scores == [[float(i)] for i in range(len(request.prompt_ids))]
        else:
            assert sequence.scores == [[float(len(request.prompt_ids) - 1)]]


SchedulerMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestScheduler = SchedulerMachine.TestCase


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 20))
def test_requests_of_one_kind_end_in_the_order_they_came(
    prompt_lens: list[int], max_step_tokens: int
) -> None:
    blocks = BlockManager(64, BLOCK_SIZE)
    scheduler = Scheduler(
        EngineConfig(max_step_tokens=max_step_tokens), blocks, CONTEXT_LEN, lambda n: 0
    )
    runner = FakeRunner(blocks)
    sequences = [
        Sequence(classify(str(i), [1] * n, per_token=True)) for i, n in enumerate(prompt_lens)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    ended: list[Sequence] = []
    while scheduler.has_work:
        batch = scheduler.schedule()
        scheduler.commit(batch, runner.run(batch))
        ended += [s for s in sequences if s.has_ended and s not in ended]
    assert ended == sequences
