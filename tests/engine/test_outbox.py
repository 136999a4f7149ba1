"""The outbox: what is told when, and that nothing is lost, doubled or reordered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from phi3svc.engine.events import EngineEvent, FailedEvent, PromptEvent, Timings, TokenEvent
from phi3svc.engine.outbox import MAX_HELD_EVENTS, Outbox
from tests.engine.requests import generate

TIMINGS = Timings(0.0, 0.0, 0.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> Outbox:
    """Readers `a` and `b` want a message every 100 ms, `n` the same for two answers, `c` none."""
    outbox = Outbox(clock)
    for name, coalesce_ms, n in (("a", 100, 1), ("b", 100, 1), ("n", 100, 2), ("c", 0, 1)):
        request = generate(name, [1], 1000)
        outbox.add(structs.replace(request, coalesce_ms=coalesce_ms, n=n))
    outbox.pass_on([])
    return outbox


def first(name: str, index: int = 0) -> TokenEvent:
    return TokenEvent(name, [0], [], None, TIMINGS, index)


def token(name: str, token_id: int, index: int = 0) -> TokenEvent:
    return TokenEvent(name, [token_id], [-float(token_id)], None, None, index)


def last(name: str, token_id: int, index: int = 0) -> TokenEvent:
    return TokenEvent(name, [token_id], [-float(token_id)], "length", TIMINGS, index)


def test_first_tokens_and_plain_readers_never_wait(outbox: Outbox) -> None:
    events: list[EngineEvent] = [first("a"), first("c"), token("c", 1), PromptEvent("b", 1, [0.5])]
    assert outbox.pass_on(events) == events


def test_readers_of_one_interval_are_told_together_with_all_that_came(
    outbox: Outbox, clock: Clock
) -> None:
    assert outbox.pass_on([token("a", 1), token("b", 2)]) == []
    clock.now_s += 0.05
    assert outbox.pass_on([token("a", 3)]) == []
    clock.now_s += 0.06
    told = outbox.pass_on([token("b", 4)])
    assert told == [
        TokenEvent("a", [1, 3], [-1.0, -3.0]),
        TokenEvent("b", [2, 4], [-2.0, -4.0]),
    ]
    assert outbox.pass_on([token("a", 5)]) == [], "the next interval begins"


def test_the_end_comes_at_once_with_what_was_held(outbox: Outbox) -> None:
    outbox.pass_on([token("a", 1), token("b", 7), token("n", 5, 1)])
    assert outbox.pass_on([last("a", 2)]) == [
        TokenEvent("a", [1, 2], [-1.0, -2.0], "length", TIMINGS)
    ]
    failure = FailedEvent("b", "deadline_exceeded", "late")
    assert outbox.pass_on([failure]) == [token("b", 7), failure]
    assert outbox.num_readers == 1
    assert outbox.pass_on([last("n", 1, 0)]) == [last("n", 1, 0)]
    assert outbox.num_readers == 1
    assert outbox.pass_on([last("n", 6, 1)])[0].token_ids == [5, 6]  # type: ignore[union-attr]
    assert outbox.num_readers == 0


def test_answers_of_one_request_are_due_together(outbox: Outbox, clock: Clock) -> None:
    for i in (1, 2):
        assert outbox.pass_on([token("n", i, 0), token("n", 10 * i, 1)]) == []
    clock.now_s += 0.1
    told = outbox.pass_on([])
    assert [(e.index, e.token_ids) for e in told if isinstance(e, TokenEvent)] == [
        (0, [1, 2]),
        (1, [10, 20]),
    ]


def test_what_is_cancelled_is_not_told(outbox: Outbox, clock: Clock) -> None:
    outbox.pass_on([token("a", 1), token("n", 1, 0), token("n", 2, 1)])
    outbox.forget("a")
    outbox.forget("n", 0)
    outbox.forget("unknown")
    clock.now_s += 1
    assert outbox.pass_on([]) == [token("n", 2, 1)]
    assert outbox.num_readers == 2


def test_a_release_tells_now(outbox: Outbox) -> None:
    outbox.pass_on([token("a", 1), token("b", 2), token("a", 3)])
    assert outbox.release("a") == [TokenEvent("a", [1, 3], [-1.0, -3.0])]
    assert outbox.release("a") == outbox.release("c") == []


def test_not_more_than_so_much_is_held(outbox: Outbox) -> None:
    events = [token("a", i) for i in range(MAX_HELD_EVENTS)]
    assert outbox.pass_on(events[:-1]) == []
    (told,) = outbox.pass_on(events[-1:])
    assert isinstance(told, TokenEvent)
    assert told.token_ids == list(range(MAX_HELD_EVENTS))


@given(st.lists(st.lists(st.sampled_from("abnc"), max_size=4), max_size=40), st.data())
def test_every_token_is_told_once_and_in_order(steps: list[list[str]], data: st.DataObject) -> None:
    clock = Clock()
    outbox = Outbox(clock)
    for name, coalesce_ms in (("a", 10), ("b", 25), ("n", 10), ("c", 0)):
        outbox.add(structs.replace(generate(name, [1], 1000), coalesce_ms=coalesce_ms))
    sent: dict[str, list[int]] = {name: [] for name in "abnc"}
    got: dict[str, list[int]] = {name: [] for name in "abnc"}
    num = 0

    def take(events: list[EngineEvent]) -> None:
        for event in events:
            assert isinstance(event, TokenEvent)
            got[event.request_id] += event.token_ids

    for names in steps:
        clock.now_s += data.draw(st.sampled_from([0.0, 0.004, 0.03]))
        events: list[EngineEvent] = []
        for name in names:
            num += 1
            sent[name].append(num)
            events.append(token(name, num))
        take(outbox.pass_on(events))
        assert got["c"] == sent["c"]
    take(outbox.pass_on([last(name, 0) for name in "abnc"]))
    assert got == {name: [*ids, 0] for name, ids in sent.items()}
    assert outbox.num_readers == 0
