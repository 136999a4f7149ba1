"""A reader's stream: merged by sequence, stopped sequence by sequence, ended when all have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.engine.events import PromptEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.token_stream import GeneratedEvent, TokenStream
from phi3svc.errors import Overloaded, Unavailable
from tests.engine.requests import generate
from tests.engine.scripted_engine import ScriptedEngine, make_info


@pytest.fixture
async def engine(tiny: Path) -> ScriptedEngine:
    client = ScriptedEngine(make_info(Phi3Config.from_dir(tiny)))
    await client.start()
    return client


def of(n: int) -> GenerateRequest:
    return generate("r", [5, 6, 7, 8], 30, n=n)


async def opened(engine: ScriptedEngine, n: int) -> TokenStream:
    """A stream whose first event has been read: token 0 of the first sequence."""
    stream = engine.generate(of(n))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    engine.say([0])
    event = await first
    assert isinstance(event, TokenEvent)
    assert (event.index, event.token_ids) == (0, [0])
    return stream


async def rest(stream: AsyncIterator[GeneratedEvent]) -> list[tuple[int, list[int]]]:
    return [(e.index, e.token_ids) async for e in stream if isinstance(e, TokenEvent)]


async def test_what_came_is_merged_by_sequence(engine: ScriptedEngine) -> None:
    stream = await opened(engine, 3)
    for token_ids, index in (([1], 2), ([2], 0), ([3, 4], 2), ([5], 1), ([6], 0)):
        engine.say(token_ids, index=index)
    round_ = []
    for has_more in (True, True, False):
        event = await anext(stream)
        assert isinstance(event, TokenEvent)
        assert event.logprobs == [-0.01 * token_id for token_id in event.token_ids]
        assert bool(stream._ready) is has_more
        round_.append((event.index, event.token_ids))
    assert round_ == [(2, [1, 3, 4]), (0, [2, 6]), (1, [5])]
    for index in range(3):
        engine.say([9], "length", index)
    assert await rest(stream) == [(0, [9]), (1, [9]), (2, [9])]
    assert (engine.cancelled, engine.stopped, engine.num_open) == ([], [], 0)


async def test_prompt_events_come_first_and_as_they_are(engine: ScriptedEngine) -> None:
    stream = engine.generate(of(1))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    engine.tell_prompt(1, 3)
    engine.tell_prompt(3, 4)
    engine.say([1], "length")
    events = [await first, *[event async for event in stream]]
    assert [type(event) for event in events] == [PromptEvent, PromptEvent, TokenEvent]
    assert [e.start for e in events if isinstance(e, PromptEvent)] == [1, 3]


async def test_a_stopped_sequence_is_heard_no_more_and_the_others_are(
    engine: ScriptedEngine,
) -> None:
    stream = await opened(engine, 3)
    engine.say([1], index=1)
    engine.say([2], index=2)
    assert await rest_of_round(stream) == [(1, [1]), (2, [2])]
    engine.say([3], index=1)
    stream.stop(1)
    assert (engine.stopped, engine.cancelled) == ([1], [])
    engine.say([4], index=1)
    engine.say([5], "stop_token", 0)
    engine.say([6], "length", 1)
    engine.say([7], "length", 2)
    assert await rest(stream) == [(0, [5]), (2, [7])]
    stream.stop(2)
    assert (engine.stopped, engine.cancelled, engine.num_open) == ([1], [], 0)


async def rest_of_round(stream: TokenStream) -> list[tuple[int, list[int]]]:
    events = [await anext(stream)]
    while stream._ready:
        events.append(await anext(stream))
    return [(e.index, e.token_ids) for e in events if isinstance(e, TokenEvent)]


async def test_what_is_ready_of_a_stopped_sequence_falls_away(engine: ScriptedEngine) -> None:
    stream = await opened(engine, 2)
    engine.say([1], index=0)
    engine.say([2], "length", index=1)
    await anext(stream)
    assert stream._ready
    stream.stop(1)
    assert not stream._ready
    assert engine.stopped == [], "the engine is done with it"
    engine.say([3], "length")
    assert await rest(stream) == [(0, [3])]


async def test_stopping_the_last_sequence_cancels_the_request(engine: ScriptedEngine) -> None:
    stream = await opened(engine, 2)
    stream.stop(1)
    stream.stop(0)
    assert engine.stopped == [1]
    assert engine.cancelled == [engine.submitted[-1].request_id]
    assert engine.num_open == 0
    assert await rest(stream) == []
    assert len(engine.cancelled) == 1


async def test_leaving_half_way_cancels_what_still_runs(engine: ScriptedEngine) -> None:
    stream = await opened(engine, 2)
    async with aclosing(stream):
        engine.say([1], "length", 0)
        engine.say([2], index=1)
        assert await rest_of_round(stream) == [(0, [1]), (1, [2])]
    assert (len(engine.cancelled), engine.num_open) == (1, 0)


async def test_a_failure_comes_behind_the_tokens_unless_all_have_finished(
    engine: ScriptedEngine,
) -> None:
    stream = await opened(engine, 2)
    done = await opened(engine, 2)
    engine.say([1], "length", 0)
    engine.say([2], "length", 1)
    engine.submitted.pop()
    engine.say([3], "length", 0)
    engine.say([4], index=1)
    await engine.close()
    assert await rest_of_round(stream) == [(0, [3]), (1, [4])]
    with pytest.raises(Unavailable):
        await anext(stream)
    assert await rest(done) == [(0, [1]), (1, [2])]
    assert engine.cancelled == []


async def test_a_request_counts_as_its_sequences(engine: ScriptedEngine) -> None:
    """The engine lets 8 in, and any request while it is idle."""
    many = await opened(engine, 64)
    with pytest.raises(Overloaded, match=r"64 sequences are open .* limit of 8"):
        await anext(engine.generate(of(1)))
    await many.aclose()
    five = await opened(engine, 5)
    with pytest.raises(Overloaded, match=r"5 sequences are open .* limit of 8"):
        await anext(engine.generate(of(4)))
    three = await opened(engine, 3)
    await five.aclose()
    four = await opened(engine, 4)
    await three.aclose()
    await four.aclose()
    assert engine.num_open == 0


async def test_a_request_refused_by_the_engine_takes_no_place(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: object) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_submit", refuse)
        with pytest.raises(BrokenPipeError):
            await anext(engine.generate(of(8)))
    other = await opened(engine, 1)
    everything = await opened(engine, 7)
    assert engine.num_open == 2
    await other.aclose()
    await everything.aclose()
