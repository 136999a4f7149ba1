"""The scheduler's policy, with a formula for a model."""

from __future__ import annotations

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch
from phi3svc.engine.request import Request
from phi3svc.engine.scheduler import Scheduler
from phi3svc.engine.sequence import Sequence, SequenceStatus
from phi3svc.errors import InvalidRequest, Overloaded, PromptTooLong
from tests.engine.fake_runner import FakeRunner, next_token
from tests.engine.requests import classify, generate

BLOCK_SIZE = 4


class Harness:
    """A scheduler with its blocks and a fake runner."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        context_len: int = 128,
        original_len: int | None = None,
        **settings: int,
    ) -> None:
        self.blocks = BlockManager(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(
            EngineConfig(**settings),
            self.blocks,
            context_len,
            lambda n: int(original_len is not None and n > original_len),
        )
        self.runner = FakeRunner(self.blocks)

    def add(self, request: Request) -> Sequence:
        pooled_idx = len(request.prompt_ids) - 1
        sequence = Sequence(request, pooled_idx)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        self.scheduler.commit(batch, self.runner.run(batch))
        return batch

    def run(self) -> None:
        while self.scheduler.has_work:
            assert self.step().chunks
        assert self.blocks.num_free == self.blocks.num_blocks


def shape(batch: Batch) -> list[tuple[str, int]]:
    return [(chunk.sequence.request_id, chunk.num_tokens) for chunk in batch.chunks]


def expected_tokens(prompt_ids: list[int], num_new: int, original_len: int = 10**9) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(num_new):
        ids.append(next_token(ids, int(len(ids) > original_len)))
    return ids


def test_decodes_come_before_prompts_which_are_cut_to_the_budget() -> None:
    h = Harness(max_step_tokens=6)
    h.add(generate("a", [1, 2, 3], 8))
    assert shape(h.step()) == [("a", 3)]
    h.add(generate("b", list(range(12)), 8))
    assert shape(h.step()) == [("a", 1), ("b", 5)]
    assert shape(h.step()) == [("a", 1), ("b", 5)]
    assert shape(h.step()) == [("a", 1), ("b", 2)]
    assert shape(h.step()) == [("a", 1), ("b", 1)]
    h.run()


def test_first_come_is_first_served_even_when_a_later_one_would_fit() -> None:
    h = Harness(num_blocks=6, max_step_tokens=64)
    h.add(generate("a", [1] * 12, 4))
    h.add(generate("big", [2] * 16, 4))
    h.add(generate("small", [1], 2))
    assert shape(h.step()) == [("a", 12)]
    assert shape(h.step()) == [("a", 1)]
    h.run()


def test_a_sequence_stops_at_max_new_tokens_stop_token_and_context() -> None:
    h = Harness(context_len=8)
    stop = next_token([1, 2], 0)
    by_count = h.add(generate("count", [5], 3))
    by_stop = h.add(generate("stop", [1, 2], 100, stop_token_ids=(stop,)))
    by_context = h.add(generate("context", [9, 9], 100))
    h.run()
    assert (by_count.finish_reason, by_count.num_generated) == ("length", 3)
    assert (by_stop.finish_reason, by_stop.token_ids) == ("stop_token", [1, 2, stop])
    assert (by_context.finish_reason, by_context.num_tokens) == ("length", 8)


def test_the_newest_gives_way_when_blocks_run_out_and_is_computed_again() -> None:
    h = Harness(num_blocks=6, context_len=24)
    old = h.add(generate("old", [1, 2, 3, 4], 12))
    new = h.add(generate("new", [5, 6, 7, 8], 12))
    h.run()
    assert old.num_preemptions == 0
    assert new.num_preemptions > 0
    assert old.token_ids == expected_tokens([1, 2, 3, 4], 12)
    assert new.token_ids == expected_tokens([5, 6, 7, 8], 12)


def test_cancelling_frees_blocks_at_once_in_every_state() -> None:
    h = Harness(max_step_tokens=4)
    decoding = h.add(generate("decoding", [1, 2], 50))
    h.step()
    chunked = h.add(generate("chunked", [1] * 40, 50))
    waiting = h.add(generate("waiting", [1] * 8, 50))
    h.step()
    assert 0 < chunked.num_computed < 40
    assert waiting.status is SequenceStatus.WAITING
    batch = h.scheduler.schedule()
    outputs = h.runner.run(batch)
    for sequence in (waiting, chunked, decoding):  # the last two are scheduled right now
        num_held = len(sequence.block_table)
        num_free = h.blocks.num_free
        h.scheduler.cancel(sequence.request_id)
        assert h.blocks.num_free == num_free + num_held
        assert sequence.has_ended
    assert h.blocks.num_free == h.blocks.num_blocks
    num_tokens = decoding.num_tokens
    h.scheduler.commit(batch, outputs)
    assert decoding.num_tokens == num_tokens
    assert not h.scheduler.has_work
    h.scheduler.cancel("never heard of")


def test_crossing_into_long_factors_recomputes_that_sequence_alone() -> None:
    h = Harness(original_len=8, max_step_tokens=64)
    crossing = h.add(generate("crossing", [1, 2, 3, 4, 5, 6], 6))
    short = h.add(generate("short", [1], 20))
    shapes = [shape(h.step()) for _ in range(5)]
    # 6 prompt tokens and 2 new ones fit the original length; the ninth token needs the long set.
    assert shapes[1:4] == [
        [("crossing", 1), ("short", 1)],
        [("crossing", 1), ("short", 1)],
        [("short", 1), ("crossing", 9)],
    ]
    assert shapes[4] == [("crossing", 1), ("short", 1)]
    assert short.rope_set == 0
    h.run()
    assert crossing.token_ids == expected_tokens([1, 2, 3, 4, 5, 6], 6, original_len=8)


def test_a_crossing_that_needs_a_new_block_gets_one() -> None:
    h = Harness(original_len=BLOCK_SIZE, num_blocks=2)
    sequence = h.add(generate("a", [1, 2, 3], 5))
    h.run()
    assert sequence.token_ids == expected_tokens([1, 2, 3], 5, original_len=BLOCK_SIZE)


@pytest.mark.parametrize("budget", [1, 3, 5, 64])
def test_classification_collects_its_rows_across_chunks(budget: int) -> None:
    h = Harness(max_step_tokens=budget)
    tokens = h.add(classify("tokens", [4] * 9, per_token=True))
    text = h.add(classify("text", [4] * 7))
    generated = h.add(generate("generated", [1, 2], 4))
    h.run()
    assert tokens.scores == [[float(i)] for i in range(9)]
    assert text.scores == [[6.0]]
    assert generated.token_ids == expected_tokens([1, 2], 4)


def test_a_classification_preempted_in_its_middle_collects_every_row_once() -> None:
    h = Harness(num_blocks=6, max_step_tokens=2)
    h.add(generate("old", [1, 2, 3, 4], 14))
    tokens = h.add(classify("tokens", [4] * 12, per_token=True))
    while tokens.num_preemptions == 0:
        assert not tokens.has_ended
        h.step()
    assert len(tokens.scores) > 0, "it had got somewhere"
    h.run()
    assert tokens.scores == [[float(i)] for i in range(12)]


def test_pooling_an_earlier_token_ends_the_sequence_there() -> None:
    h = Harness(max_step_tokens=4)
    sequence = Sequence(classify("text", [4] * 12), pooled_idx=2)
    h.scheduler.add(sequence)
    h.step()
    assert sequence.scores == [[2.0]]
    assert sequence.has_ended
    assert h.blocks.num_free == h.blocks.num_blocks


def test_the_waiting_queue_is_bounded_in_requests_and_tokens() -> None:
    h = Harness(max_sequences=1, max_waiting_requests=1, max_waiting_tokens=10)
    h.add(generate("a", [1] * 6, 1))
    with pytest.raises(Overloaded, match="6 prompt tokens are waiting and 5 more"):
        h.add(generate("b", [1] * 5, 1))
    h.add(generate("c", [1] * 4, 1))
    with pytest.raises(Overloaded, match="2 sequences are running or waiting"):
        h.add(generate("d", [1], 1))
    h.scheduler.cancel("a")
    h.add(generate("d", [1] * 6, 1))
    h.run()
    h.add(generate("longer than the bound", [1] * 11, 1))
    h.run()


@pytest.mark.parametrize(("num_blocks", "context_len"), [(4, 100), (100, 16)])
def test_what_can_never_fit_is_refused_with_numbers(num_blocks: int, context_len: int) -> None:
    h = Harness(num_blocks=num_blocks, context_len=context_len)
    with pytest.raises(PromptTooLong, match=r"16 tokens, not at most 15: the context of 16 tokens"):
        h.add(generate("a", [1] * 16, 1))
    with pytest.raises(PromptTooLong, match=r"17 tokens, not at most 16"):
        h.add(classify("b", [1] * 17))
    longest = h.add(generate("c", [1] * 15, 9))
    text = h.add(classify("d", [1] * 16))
    h.run()
    assert longest.num_generated == 1
    assert len(text.scores) == 1


def test_a_request_id_in_use_is_refused() -> None:
    h = Harness()
    h.add(generate("a", [1], 1))
    with pytest.raises(InvalidRequest, match="'a' is in use"):
        h.add(generate("a", [1], 1))


def test_no_more_than_max_sequences_run() -> None:
    h = Harness(max_sequences=2)
    for name in "abc":
        h.add(generate(name, [1], 3))
    assert [name for name, _ in shape(h.step())] == ["a", "b"]
    assert (h.scheduler.num_running, h.scheduler.num_waiting) == (2, 1)
    h.run()


def test_timings_order_and_count_preemptions() -> None:
    h = Harness(num_blocks=6, context_len=24)
    h.add(generate("old", [1, 2, 3, 4], 12))
    new = h.add(generate("new", [5, 6, 7, 8], 12))
    h.run()
    timings = new.timings()
    assert 0 <= timings.queue_s <= timings.first_token_s <= timings.total_s
    assert timings.num_preemptions == new.num_preemptions
