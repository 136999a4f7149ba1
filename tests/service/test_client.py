"""The small client: events, errors in one line, and calls that end early."""

from __future__ import annotations

import time

import grpc
import pytest

from phi3svc.engine.events import Completed, Delta, Finished, Started, Timings, TokenEvent
from phi3svc.errors import EngineFailed, InvalidRequest, Unavailable
from phi3svc.service.client import Client
from phi3svc.service.remote_errors import CallError
from tests.service.conftest import Harness
from tests.service.fake_engine import EOS_ID, VOCAB, FakeEngine, Request, ids_of
from tests.service.test_generate import hang, last_request, until


async def test_events_are_domain_values(harness: Harness) -> None:
    stream = harness.client.generate(
        "abc", request_id="mine", seed=7, wants_token_ids=True, wants_logprobs=True
    )
    events = [event async for event in stream]
    assert events[0] == Started("mine", "chat", 7, 3)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == "abc"
    assert [i for delta in deltas for i in delta.token_ids] == [*ids_of("abc"), EOS_ID]
    assert {p for delta in deltas for p in delta.logprobs} == {-0.5}
    finished, completed = events[-2:]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop_string, finished.token_count) == ("stop_token", None, 4)
    assert isinstance(completed, Completed)
    assert (completed.prompt_token_count, completed.completion_token_count) == (3, 4)
    assert completed.queue_s == pytest.approx(0.001)


async def test_every_option_reaches_the_engine(harness: Harness) -> None:
    stream = harness.client.generate(
        ids_of("abcdef"),
        model="chat",
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        seed=9,
        min_p=0.25,
        typical_p=0.5,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        logit_bias={3: 1.5, 4: -100.0},
        n=2,
        max_new_tokens=4,
        min_new_tokens=2,
        stop=["d"],
        stop_token_ids=[VOCAB["z"]],
        ignore_eos=True,
        top_logprobs=20,
        wants_prompt_logprobs=True,
        coalesce_ms=1,
        cache_salt="a salt",
        priority=-100,
        timeout_s=60,
    )
    texts = ["", ""]
    async for event in stream:
        if isinstance(event, Delta):
            texts[event.index] += event.text
    assert texts == ["abc", "abc"]
    request = last_request(harness)
    assert request.prompt_ids == ids_of("abcdef")
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 3, 0.75)
    assert (sampling.seed, request.max_new_tokens) == (9, 4)
    assert (sampling.min_p, sampling.typical_p) == (0.25, 0.5)
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (1.5, -0.5)
    assert (sampling.frequency_penalty, request.min_new_tokens) == (0.75, 2)
    assert sampling.logit_bias == {3: 1.5, 4: -100.0}
    assert request.stop_token_ids == [VOCAB["z"]]
    assert (request.n, request.num_top_logprobs, request.want_prompt_logprobs) == (2, 20, True)
    assert (request.cache_salt, request.tenant, request.priority) == ("a salt", "", -100)
    assert request.deadline_s is not None
    # gRPC rounds a timeout up on its way.
    assert 50 < request.deadline_s - time.monotonic() <= 61


async def test_the_tenant_is_named_in_every_call(harness: Harness) -> None:
    client = Client(harness.channel, harness.address, tenant="acme:search/v1")
    assert [event async for event in client.generate("hi")]
    assert await client.classify(["a+"])
    assert await client.classify_tokens(["Ab"])
    assert [r.tenant for r in harness.engine.requests] == ["acme:search/v1"] * 3


async def test_what_the_cache_spared_is_told_at_the_start(harness: Harness) -> None:
    async def answer(engine: FakeEngine, request: Request) -> None:
        timings = Timings(0.0, 0.0, 0.0, cached_prompt_token_count=2)
        engine._dispatch([TokenEvent(request.request_id, [EOS_ID], [], "stop_token", timings)])

    harness.engine.script = answer
    started = await anext(harness.client.generate("abc", request_id="mine", seed=7))
    assert started == Started("mine", "chat", 7, 3, cached_prompt_token_count=2)


async def test_an_empty_list_of_tokens_is_the_servers_to_refuse(harness: Harness) -> None:
    with pytest.raises(InvalidRequest, match=r"token_ids\.ids: empty"):
        await anext(harness.client.generate([]))


async def test_a_deadline_is_named_in_the_error(harness: Harness) -> None:
    harness.engine.script = hang
    with pytest.raises(CallError, match="DEADLINE_EXCEEDED") as caught:
        async for _ in harness.client.generate("hi", timeout_s=0.1):
            pass
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: harness.engine.num_open == 0)


async def test_closing_the_iterator_frees_the_engine(harness: Harness) -> None:
    harness.engine.script = hang
    stream = harness.client.generate("hi")
    assert isinstance(await anext(stream), Started)
    await stream.aclose()
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 1


async def test_a_fault_of_the_server_keeps_its_id(harness: Harness) -> None:
    async def fail(engine: FakeEngine, request: Request) -> None:
        engine.score(request, [])

    harness.engine.script = fail
    with pytest.raises(EngineFailed, match=r"internal error [0-9a-f]{16}"):
        await harness.client.classify(["hi"])


async def test_an_unreachable_server_is_named_in_the_error() -> None:
    async with Client.connect("unix:/no/such/phi3svc.sock") as client:
        with pytest.raises(
            Unavailable, match=r"cannot reach unix:/no/such/phi3svc\.sock"
        ) as caught:
            await client.list_models()
    assert "\n" not in str(caught.value)
