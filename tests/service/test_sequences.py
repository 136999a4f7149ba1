"""Several answers and log probabilities on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from phi3svc.engine.events import Completed, Delta, Finished, PromptLogprobs, Started, TopLogprobs
from phi3svc.engine.request import Request
from phi3svc.v1 import generation_service_pb2 as pb
from tests.service.conftest import Harness
from tests.service.fake_engine import EOS_ID, FakeEngine, ids_of, top_of
from tests.service.test_generate import collect, failure, last_request, until
from tests.service.test_validation import generate_request


def texts_of(responses: list[pb.GenerateResponse], n: int) -> list[str]:
    return ["".join(r.delta.text for r in responses if r.delta.index == i) for i in range(n)]


async def test_every_sequence_has_its_deltas_and_its_end(harness: Harness) -> None:
    responses = await collect(harness, prompt="hello", sampling={"n": 3, "temperature": 1})
    assert [r.seq for r in responses] == list(range(len(responses)))
    events = [r.WhichOneof("event") for r in responses]
    assert (events[0], events[-1]) == ("started", "completed")
    assert events.count("finished") == 3
    assert texts_of(responses, 3) == ["hello"] * 3
    ends = {r.finished.index: i for i, r in enumerate(responses) if r.HasField("finished")}
    for index in range(3):
        places = [
            i for i, r in enumerate(responses) if r.HasField("delta") and r.delta.index == index
        ]
        assert max(places) < ends[index]
    digests = {r.finished.digest for r in responses if r.HasField("finished")}
    assert len(digests) == 3
    usage = responses[-1].completed.usage
    assert (usage.prompt_token_count, usage.generated_token_count) == (5, 18)
    assert (usage.drafted_token_count, usage.accepted_token_count) == (12, 9)
    assert last_request(harness).n == 3


async def test_one_answer_unless_more_are_asked_for(harness: Harness) -> None:
    responses = await collect(harness, prompt="hello")
    assert texts_of(responses, 2) == ["hello", ""]
    request = last_request(harness)
    assert (request.n, request.num_top_logprobs, request.want_prompt_logprobs) == (1, 0, False)


async def test_a_stop_string_ends_its_own_sequence_alone(harness: Harness) -> None:
    may_end = asyncio.Event()

    async def talk(engine: FakeEngine, request: Request) -> None:
        for characters in zip("one two", "uno due", strict=True):
            for index, character in enumerate(characters):
                engine.say(request, character, index=index)
            await asyncio.sleep(0)
        await until(lambda: engine.stopped == [0])
        engine.say(request, " tre", "stop_token", 1)
        may_end.set()
        await asyncio.Event().wait()

    harness.engine.script = talk
    responses = await collect(harness, sampling={"n": 2}, stop={"strings": [" tw"]})
    assert may_end.is_set()
    assert texts_of(responses, 2) == ["one", "uno due tre"]
    finished = [r.finished for r in responses if r.HasField("finished")]
    assert [(f.index, f.reason, f.stop_string) for f in finished] == [
        (0, pb.FINISH_REASON_STOP_STRING, " tw"),
        (1, pb.FINISH_REASON_STOP_TOKEN, ""),
    ]
    assert (harness.engine.stopped, harness.engine.cancelled) == ([0], [])
    assert harness.engine.num_open == 0


async def test_cancelling_half_way_frees_every_sequence(harness: Harness) -> None:
    async def one_of_three(engine: FakeEngine, request: Request) -> None:
        engine.say(request, "ends", "length", 1)
        engine.say(request, "waits", index=2)
        await asyncio.Event().wait()

    harness.engine.script = one_of_three
    call = harness.generation.Generate(generate_request({"sampling": {"n": 3}}))
    while not (await call.read()).HasField("finished"):
        pass
    assert harness.engine.num_open == 1
    call.cancel()
    await until(lambda: harness.engine.num_open == 0)
    assert (len(harness.engine.cancelled), harness.engine.stopped) == (1, [])


async def test_top_logprobs_come_with_their_tokens(harness: Harness) -> None:
    responses = await collect(
        harness,
        prompt="abc",
        output={"token_ids": True, "top_logprobs": 2},
        stop={"strings": ["c"]},
    )
    deltas = [r.delta for r in responses if r.HasField("delta")]
    ids = [i for delta in deltas for i in delta.token_ids]
    assert ids == ids_of("abc")
    assert all(len(delta.top_logprobs) == len(delta.token_ids) for delta in deltas)
    top = [(list(t.token_ids), list(t.logprobs)) for delta in deltas for t in delta.top_logprobs]
    assert top == [(place.token_ids, place.logprobs) for place in top_of(ids, 2)]
    assert not any(delta.logprobs for delta in deltas)
    assert not any(r.HasField("prompt_logprobs") for r in responses)


async def test_top_logprobs_alone_make_a_delta_worth_sending(harness: Harness) -> None:
    """The end-of-sequence token has no text."""
    responses = await collect(harness, prompt="a", output={"top_logprobs": 1})
    top = [t.token_ids[0] for r in responses for t in r.delta.top_logprobs]
    assert top == [*ids_of("a"), EOS_ID]


@pytest.mark.parametrize("num_top", [0, 3])
async def test_prompt_logprobs_come_in_order_behind_started(harness: Harness, num_top: int) -> None:
    responses = await collect(
        harness, prompt="abcdef", output={"prompt_logprobs": True, "top_logprobs": num_top}
    )
    events = [r.WhichOneof("event") for r in responses]
    assert events[:4] == ["started", *["prompt_logprobs"] * 3]
    assert "prompt_logprobs" not in events[4:]
    assert responses[0].started.cached_prompt_token_count == 0
    pieces = [r.prompt_logprobs for r in responses[1:4]]
    assert [piece.start for piece in pieces] == [1, 3, 5]
    assert [x for piece in pieces for x in piece.logprobs] == [-0.25 * i for i in range(1, 6)]
    top = [list(t.token_ids) for piece in pieces for t in piece.top_logprobs]
    assert top == [place.token_ids for place in top_of(ids_of("bcdef"), num_top)]


async def test_a_request_counts_as_n_against_the_limit(launch: Any) -> None:
    harness = await launch(max_open_sequences=5)

    async def hang(engine: FakeEngine, request: Request) -> None:
        engine.say(request, "wait")
        await asyncio.Event().wait()

    harness.engine.script = hang
    running = harness.generation.Generate(generate_request({"sampling": {"n": 3}}))
    await running.read()
    refused = await failure(harness.generation.Generate(generate_request({"sampling": {"n": 3}})))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    two = harness.generation.Generate(generate_request({"sampling": {"n": 2}}))
    assert (await two.read()).HasField("started")
    running.cancel()
    two.cancel()


async def test_the_client_yields_what_the_wire_has(harness: Harness) -> None:
    stream = harness.client.generate(
        "abc",
        request_id="mine",
        seed=7,
        n=2,
        top_logprobs=1,
        wants_prompt_logprobs=True,
        wants_token_ids=True,
    )
    events = [event async for event in stream]
    assert events[0] == Started("mine", "chat", 7, 3)
    b, c = ids_of("bc")
    assert events[1] == PromptLogprobs(
        1, (-0.25, -0.5), (TopLogprobs([b], [-0.5]), TopLogprobs([c], [-0.5]))
    )
    for index in range(2):
        deltas = [e for e in events if isinstance(e, Delta) and e.index == index]
        assert "".join(delta.text for delta in deltas) == "abc"
        ids = [i for delta in deltas for i in delta.token_ids]
        assert [top.token_ids for delta in deltas for top in delta.top] == [[i] for i in ids]
    assert sorted(event.index for event in events if isinstance(event, Finished)) == [0, 1]
    assert isinstance(events[-1], Completed)
    assert events[-1].completion_token_count == 8
    assert (events[-1].drafted_token_count, events[-1].accepted_token_count) == (8, 6)
