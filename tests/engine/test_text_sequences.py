"""Several answers, and log probabilities, on their way from token events to text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from phi3svc.engine.events import (
    Completed,
    Delta,
    Finished,
    PromptLogprobs,
    Started,
    TextEvent,
    TopLogprobs,
)
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.text_stream import MAX_TOKENS_PER_EVENT, generate_text, stream_digest
from phi3svc.text.tokenizer import Tokenizer
from tests.engine.requests import generate
from tests.engine.scripted_engine import ScriptedEngine, make_info, top_of
from tests.model.checkpoints import END_TOKEN_ID

FINGERPRINT = "ab" * 32
SAMPLED = SamplingParams(1.0, seed=77)


async def run(
    engine: ScriptedEngine,
    tokenizer: Tokenizer,
    request: GenerateRequest,
    steps: list[Callable[[], None]],
    stop_strings: tuple[str, ...] = (),
) -> list[TextEvent]:
    """All events; after each step the consumer gets time to catch up."""
    events: list[TextEvent] = []

    async def consume() -> None:
        async for event in generate_text(engine, request, tokenizer, stop_strings=stop_strings):
            events.append(event)

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)
    for step in steps:
        step()
        for _ in range(4):
            await asyncio.sleep(0)
    await asyncio.wait_for(task, 1)
    return events


def ids_of(text: str) -> list[int]:
    """The tiny tokenizer's ids are bytes."""
    return list(text.encode())


def say_both(engine: ScriptedEngine, *parts: tuple[int, str]) -> None:
    """Several sequences get tokens in the same step."""
    for index, text in parts:
        engine.say(ids_of(text), index=index)


def deltas_of(events: list[TextEvent], index: int) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta) and event.index == index]


def text_of(events: list[TextEvent], index: int) -> str:
    return "".join(delta.text for delta in deltas_of(events, index))


def finishes(events: list[TextEvent]) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


async def test_sequences_interleave_and_end_each_in_its_own_way(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    request = generate("r", [1, 2, 3], 30, sampling=SAMPLED, n=3)
    events = await run(
        engine,
        tokenizer,
        request,
        [
            lambda: engine.say(ids_of("a"), index=0),
            lambda: say_both(engine, (1, "xST"), (2, "ö")),
            lambda: engine.say(ids_of("OP"), index=1),
            lambda: engine.say(ids_of("beyond"), "length", index=1),
            lambda: engine.say([*ids_of("b"), END_TOKEN_ID], "stop_token", index=0),
            lambda: engine.say(ids_of("STO"), "length", index=2),
        ],
        ("STOP",),
    )
    assert isinstance(events[0], Started)
    assert [text_of(events, i) for i in range(3)] == ["ab", "x", "öSTO"]
    assert engine.stopped == [1], "the engine is told of the one that met a stop string"
    assert engine.cancelled == []
    ends = finishes(events)
    assert [(end.index, end.reason, end.stop_string, end.token_count) for end in ends] == [
        (1, "stop_string", "STOP", 5),
        (0, "stop_token", None, 3),
        (2, "length", None, 5),
    ]
    for end in ends:
        last = deltas_of(events, end.index)[-1]
        assert events.index(end) == events.index(last) + 1
    token_ids = {0: [*ids_of("ab"), END_TOKEN_ID], 1: ids_of("xSTOP"), 2: ids_of("öSTO")}
    for end in ends:
        expected = token_ids[end.index]
        assert [i for d in deltas_of(events, end.index) for i in d.token_ids] == expected
        assert end.digest == stream_digest(FINGERPRINT, request, ("STOP",), expected, end.index)
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert (completed.prompt_token_count, completed.completion_token_count) == (3, 13)
    assert (completed.drafted_token_count, completed.accepted_token_count) == (30, 3)


async def test_what_came_together_is_a_delta_of_each_sequence(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(
        engine,
        tokenizer,
        generate("r", [1], 30, n=2),
        [
            lambda: engine.say(ids_of("a"), index=0),
            lambda: say_both(engine, (1, "b"), (0, "c")),
            lambda: engine.say(ids_of("d"), "length", index=0),
            lambda: engine.say(ids_of("e"), "length", index=1),
        ],
    )
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [(delta.text, delta.index) for delta in deltas] == [
        ("a", 0),
        ("b", 1),
        ("c", 0),
        ("d", 0),
        ("e", 1),
    ]


async def test_all_sequences_stopped_cancels_the_request(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    events = await run(
        engine,
        tokenizer,
        generate("r", [1], 30, n=2),
        [
            lambda: engine.say(ids_of("a."), index=0),
            lambda: engine.say(ids_of("b."), index=1),
        ],
        (".",),
    )
    assert [end.reason for end in finishes(events)] == ["stop_string"] * 2
    assert (engine.stopped, len(engine.cancelled), engine.num_open) == ([0], 1, 0)
    assert isinstance(events[-1], Completed)


async def test_the_prompts_log_probabilities_come_in_order_behind_the_start(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    request = generate("r", [5, 6, 7, 8], 30, num_top_logprobs=2, want_prompt_logprobs=True)
    events = await run(
        engine,
        tokenizer,
        request,
        [
            lambda: engine.tell_prompt(1, 3),
            lambda: engine.tell_prompt(3, 4),
            lambda: engine.say(ids_of("a"), "length"),
        ],
    )
    assert events[:3] == [
        Started("r", "tiny", 0, 4),
        PromptLogprobs(1, (-0.06, -0.07), (top_of(6, 2), top_of(7, 2))),
        PromptLogprobs(3, (-0.08,), (top_of(8, 2),)),
    ]
    assert deltas_of(events, 0)[0].top == (TopLogprobs([97, 98], [-0.5, -0.5]),)
    assert isinstance(events[-1], Completed)
    assert 0 < events[-1].first_token_s <= events[-1].total_s


async def test_a_prompt_of_one_token_has_none(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    request = generate("r", [5], 30, want_prompt_logprobs=True)
    events = await run(engine, tokenizer, request, [lambda: engine.say(ids_of("a"), "length")])
    assert [type(event) for event in events] == [Started, Delta, Finished, Completed]


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_alternatives_stay_with_their_tokens_when_a_stop_string_cuts(
    engine: ScriptedEngine, tokenizer: Tokenizer, size: int
) -> None:
    ids = ids_of("one STOP two")
    request = generate("r", [1], 30, num_top_logprobs=3)
    steps = [partial(engine.say, ids[i : i + size]) for i in range(0, len(ids), size)]
    events = await run(engine, tokenizer, request, steps, ("STOP",))
    deltas = deltas_of(events, 0)
    assert [i for delta in deltas for i in delta.token_ids] == ids[:8]
    assert [top for delta in deltas for top in delta.top] == [top_of(i, 3) for i in ids[:8]]
    assert all(len(d.token_ids) == len(d.logprobs) == len(d.top) for d in deltas)


@pytest.mark.parametrize("stop", [(), ("q",)])
async def test_what_a_slow_reader_finds_comes_in_events_of_bounded_size(
    engine: ScriptedEngine, tokenizer: Tokenizer, stop: tuple[str, ...]
) -> None:
    num = 2 * MAX_TOKENS_PER_EVENT + 10
    prompt_ids = [i % 256 for i in range(num)]
    engine._models["tiny"] = make_info(engine.models["tiny"].config, max_context_len=100_000)
    request = generate("r", prompt_ids, 50_000, num_top_logprobs=1, want_prompt_logprobs=True)
    ids = ids_of("ab" * MAX_TOKENS_PER_EVENT + "qabababab") + ids_of("c")

    def everything() -> None:
        engine.tell_prompt(1, num)
        engine.say(ids, "length")

    events = await run(engine, tokenizer, request, [everything], stop)
    pieces = [event for event in events if isinstance(event, PromptLogprobs)]
    sizes = [(piece.start, len(piece.logprobs), len(piece.top)) for piece in pieces]
    full = MAX_TOKENS_PER_EVENT
    assert sizes == [(1, full, full), (1 + full, full, full), (1 + 2 * full, 9, 9)]
    assert [i for piece in pieces for top in piece.top for i in top.token_ids] == prompt_ids[1:]
    deltas = deltas_of(events, 0)
    expected = ids[: 2 * full + 1] if stop else ids
    assert [len(delta.token_ids) for delta in deltas] == [full, full, len(expected) - 2 * full]
    assert [i for delta in deltas for i in delta.token_ids] == expected
    assert [i for delta in deltas for top in delta.top for i in top.token_ids] == expected
    assert text_of(events, 0) == bytes(expected).decode().removesuffix("q" if stop else "")
    (end,) = finishes(events)
    assert (end.reason, end.token_count) == ("stop_string" if stop else "length", len(expected))


def test_the_digest_has_the_sequences_place_where_that_decides_its_tokens() -> None:
    request = generate("r", [1, 2], 30, sampling=SAMPLED)
    several = msgspec.structs.replace(
        request, n=4, num_top_logprobs=5, want_prompt_logprobs=True, want_logprobs=False
    )
    first = stream_digest("f", request, (), [1])
    assert first == stream_digest("f", several, (), [1], 0)
    assert len({stream_digest("f", several, (), [1], index) for index in range(4)}) == 4
    greedy = msgspec.structs.replace(several, sampling=SamplingParams())
    assert len({stream_digest("f", greedy, (), [1], index) for index in range(4)}) == 1


def test_the_digest_is_the_one_that_earlier_versions_gave() -> None:
    request = generate("r", [1, 2, 3], 30, sampling=SamplingParams(0.5, 5, 0.75, 9))
    assert stream_digest("f", request, ("x",), [4, 5]) == (
        "2dc39aa42266ac06b19ffd2d4a7b35bfd1952e0f2f90b6cf43b323a2c064a3af"
    )
