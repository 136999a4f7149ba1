"""Token events become text: stop strings, stop tokens, split characters, digests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import pytest

from phi3svc.engine.events import Completed, Delta, Finished, Started, TextEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.text_stream import generate_text, stream_digest
from phi3svc.errors import Overloaded, Unavailable
from phi3svc.text.tokenizer import Tokenizer
from tests.engine.requests import generate
from tests.engine.scripted_engine import ScriptedEngine
from tests.model.checkpoints import END_TOKEN_ID

REQUEST = generate("r", [1, 2, 3], 30, stop_token_ids=(END_TOKEN_ID,))


def ids_of(text: str) -> list[int]:
    """The tiny tokenizer's ids are bytes."""
    return list(text.encode())


async def run(
    engine: ScriptedEngine,
    tokenizer: Tokenizer,
    parts: list[list[int]],
    finish: str | None = "length",
    stop_strings: tuple[str, ...] = (),
    request: GenerateRequest = REQUEST,
) -> list[TextEvent]:
    """All events; the engine deals one part at a time, and the consumer keeps up."""
    events: list[TextEvent] = []

    async def consume() -> None:
        async for event in generate_text(engine, request, tokenizer, stop_strings=stop_strings):
            events.append(event)

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    for index, part in enumerate(parts):
        engine.say(part, finish if index == len(parts) - 1 else None)
        for _ in range(4):
            await asyncio.sleep(0)
    await asyncio.wait_for(task, 1)
    return events


def text_of(events: list[TextEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def finished(events: list[TextEvent]) -> Finished:
    assert isinstance(events[0], Started)
    assert all(isinstance(event, Delta) for event in events[1:-2])
    assert isinstance(events[-2], Finished)
    assert isinstance(events[-1], Completed)
    return events[-2]


async def test_a_stream_begins_with_what_it_is_and_ends_with_what_it_cost(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(1.0, seed=77))
    events = await run(engine, tokenizer, [ids_of("He"), ids_of("y")], request=request)
    assert events[0] == Started("r", "tiny", 77, 3)
    assert events[1] == Delta("He", (72, 101), (-0.72, -1.01))
    assert events[2] == Delta("y", (121,), (-1.21,))
    assert finished(events).reason == "length"
    assert finished(events).token_count == 3
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert (completed.prompt_token_count, completed.completion_token_count) == (3, 3)
    assert completed.queue_s == 0.25
    assert 0 < completed.first_token_s <= completed.total_s
    assert engine.cancelled == []


async def test_a_character_is_never_split(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    parts = [[byte] for byte in "a😀é".encode()]
    events = await run(engine, tokenizer, parts)
    texts = [event.text for event in events if isinstance(event, Delta)]
    assert texts == ["a", "", "", "", "😀", "", "é"]


async def test_bytes_that_stay_incomplete_come_as_replacement(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(engine, tokenizer, [[*ids_of("ok"), 0xF0, 0x9F]])
    assert text_of(events) == "ok" + b"\xf0\x9f".decode(errors="replace")


async def test_the_stop_token_is_counted_and_not_shown(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(engine, tokenizer, [ids_of("ab"), [END_TOKEN_ID]], "stop_token")
    assert text_of(events) == "ab"
    assert finished(events).reason == "stop_token"
    assert finished(events).token_count == 3
    visible = await run(engine, tokenizer, [ids_of("abc")], "stop_token")
    assert text_of(visible) == "ab", "also where the stop token is an ordinary one"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
async def test_a_stop_string_ends_the_stream_at_the_same_token_however_tokens_arrive(
    engine: ScriptedEngine, tokenizer: Tokenizer, size: int
) -> None:
    ids = ids_of("one STOP two STOP")
    parts = [ids[i : i + size] for i in range(0, len(ids), size)]
    events = await run(engine, tokenizer, parts, None, ("STOP", "two"))
    end = finished(events)
    assert text_of(events) == "one "
    assert (end.reason, end.stop_string, end.token_count) == ("stop_string", "STOP", 8)
    token_ids = [i for event in events if isinstance(event, Delta) for i in event.token_ids]
    assert token_ids == ids[:8]
    logprobs = [p for event in events if isinstance(event, Delta) for p in event.logprobs]
    assert len(logprobs) == 8
    assert end.digest == stream_digest("ab" * 32, REQUEST, ("two", "STOP"), ids[:8])
    assert engine.cancelled == [engine.submitted[-1].request_id]
    assert engine.num_open == 0


async def test_a_stop_string_wins_over_the_length_it_ends_at(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(engine, tokenizer, [ids_of("aST"), ids_of("OP")], "length", ("STOP",))
    assert (text_of(events), finished(events).reason) == ("a", "stop_string")
    assert engine.cancelled == []


async def test_held_back_text_comes_when_the_stream_ends(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(engine, tokenizer, [ids_of("a"), ids_of("STO")], "length", ("STOP",))
    assert text_of(events) == "aSTO"


async def test_what_came_while_the_consumer_was_away_is_one_delta(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    stream = generate_text(engine, REQUEST, tokenizer)
    started = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    engine.say(ids_of("a"))
    await started
    assert await anext(stream) == Delta("a", (97,), (-0.97,))
    for character in "bcd":
        engine.say(ids_of(character))
    engine.say(ids_of("e"), "length")
    delta = await anext(stream)
    assert isinstance(delta, Delta)
    assert delta.text == "bcde"
    assert [type(event) async for event in stream] == [Finished, Completed]


@pytest.mark.parametrize("num_events", [0, 1, 2])
async def test_closing_at_any_point_cancels(
    engine: ScriptedEngine, tokenizer: Tokenizer, num_events: int
) -> None:
    stream: AsyncGenerator[TextEvent, None] = generate_text(engine, REQUEST, tokenizer)
    async with aclosing(stream):
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        if num_events == 0:
            first.cancel()
            await asyncio.wait([first])
        else:
            engine.say(ids_of("abc"))
            await first
            for _ in range(num_events - 1):
                await anext(stream)
    assert engine.cancelled == [engine.submitted[-1].request_id]
    assert engine.num_open == 0


async def test_a_dead_engine_is_an_error_after_the_text_it_gave(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    stream = generate_text(engine, REQUEST, tokenizer)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    engine.say(ids_of("abc"))
    await engine.close()
    assert isinstance(await first, Started)
    delta = await anext(stream)
    assert isinstance(delta, Delta)
    assert delta.text == "abc"
    with pytest.raises(Unavailable, match="closed"):
        await anext(stream)
    assert engine.cancelled == []


async def test_a_death_behind_the_last_token_takes_nothing_away(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    task = asyncio.create_task(_token_ids(engine))
    await asyncio.sleep(0)
    engine.say(ids_of("abc"), "length")
    await engine.close()
    assert await task == ids_of("abc")


async def _token_ids(engine: ScriptedEngine) -> list[int]:
    return [token_id async for event in engine.generate(REQUEST) for token_id in event.token_ids]


async def test_too_many_open_streams_are_refused_here(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    tasks = [asyncio.ensure_future(anext(engine.generate(REQUEST))) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"8 sequences are open .* limit of 8"):
        await anext(engine.generate(REQUEST))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert engine.num_open == 0


def test_the_digest_counts_what_decides_the_answer_and_nothing_else() -> None:
    sampled = msgspec.structs.replace(REQUEST, sampling=SamplingParams(0.5, 5, 0.9, 1))
    base = stream_digest("f", sampled, ["x", "y"], [1, 2])
    assert len(base) == 64
    assert base == stream_digest("f", sampled, ("y", "x", "x"), [1, 2])
    same = msgspec.structs.replace(sampled, request_id="other", model="m", want_logprobs=False)
    assert base == stream_digest("f", same, ["x", "y"], [1, 2])
    different = [
        stream_digest("g", sampled, ["x", "y"], [1, 2]),
        stream_digest("f", sampled, ["x"], [1, 2]),
        stream_digest("f", sampled, ["x", "y"], [1, 2, 3]),
        *(
            stream_digest("f", msgspec.structs.replace(sampled, **change), ["x", "y"], [1, 2])
            for change in (
                {"prompt_ids": [1, 2]},
                {"max_new_tokens": 31},
                {"stop_token_ids": []},
                {"min_new_tokens": 1},
                {"sampling": SamplingParams(0.5, 5, 0.9, 2)},
                {"sampling": SamplingParams(0.6, 5, 0.9, 1)},
                {"sampling": SamplingParams(0.5, 6, 0.9, 1)},
                {"sampling": SamplingParams(0.5, 5, 0.8, 1)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, min_p=0.1)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, typical_p=0.9)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, repetition_penalty=1.1)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, presence_penalty=1.1)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, frequency_penalty=1.1)},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, logit_bias={1: 1.0})},
                {"sampling": SamplingParams(0.5, 5, 0.9, 1, logit_bias={1: 2.0})},
            )
        ),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_the_digest_of_a_greedy_answer_counts_what_changes_its_logits() -> None:
    digests = {
        stream_digest("f", msgspec.structs.replace(REQUEST, sampling=sampling), (), [1])
        for sampling in (
            SamplingParams(),
            SamplingParams(repetition_penalty=1.1),
            SamplingParams(presence_penalty=0.5),
            SamplingParams(frequency_penalty=0.5),
            SamplingParams(logit_bias={1: 1.0}),
        )
    }
    assert len(digests) == 5


def test_the_digest_of_a_greedy_answer_does_not_depend_on_the_seed_drawn() -> None:
    digests = {
        stream_digest(
            "f", msgspec.structs.replace(REQUEST, sampling=SamplingParams(0.0, seed=seed)), (), [1]
        )
        for seed in (1, 2)
    }
    assert len(digests) == 1
