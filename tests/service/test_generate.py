"""The grammar of the stream, what deltas carry, and how a stream ends before its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from phi3svc.engine.async_engine import ModelInfo
from phi3svc.engine.request import GenerateRequest, Request
from phi3svc.errors import EngineFailed, NotFound, Overloaded, Unavailable
from phi3svc.service.remote_errors import error_of
from phi3svc.v1 import generation_service_pb2 as pb
from phi3svc.v1 import tokenizer_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import CONTEXT_LEN, EOS_ID, FakeEngine, ids_of, make_info
from tests.service.test_validation import generate_request


async def collect(harness: Harness, **overrides: Any) -> list[pb.GenerateResponse]:
    return [r async for r in harness.generation.Generate(generate_request(overrides))]


def text_of(responses: list[pb.GenerateResponse]) -> str:
    return "".join(r.delta.text for r in responses)


def last_request(harness: Harness) -> GenerateRequest:
    request = harness.engine.requests[-1]
    assert isinstance(request, GenerateRequest)
    return request


async def drain(call: Any) -> list[pb.GenerateResponse]:
    """The rest of a stream, also of one that `read` has begun."""
    responses = []
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    return responses


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain(call)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until the condition holds; pytest's timeout is the limit."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def hang(engine: FakeEngine, request: Request) -> None:
    """Says one word, then nothing more."""
    engine.say(request, "wait")
    await asyncio.Event().wait()


async def test_stream_follows_its_grammar(harness: Harness) -> None:
    responses = await collect(harness, prompt="hello there", request_id="mine")
    events = [r.WhichOneof("event") for r in responses]
    assert [r.seq for r in responses] == list(range(len(responses)))
    assert events[0] == "started"
    assert events[-2:] == ["finished", "completed"]
    assert set(events[1:-2]) == {"delta"}
    assert text_of(responses) == "hello there"
    started, finished, completed = responses[0].started, responses[-2].finished, responses[-1]
    assert (started.request_id, started.model, started.prompt_token_count) == ("mine", "chat", 11)
    assert (finished.reason, finished.token_count) == (pb.FINISH_REASON_STOP_TOKEN, 12)
    assert len(finished.digest) == 64
    usage, timings = completed.completed.usage, completed.completed.timings
    assert (usage.prompt_token_count, usage.generated_token_count) == (11, 12)
    assert timings.queue_wait_ms == pytest.approx(1.0)
    assert 0 < timings.time_to_first_token_ms <= timings.total_ms


async def test_started_reports_a_request_id_of_its_own_when_none_is_given(harness: Harness) -> None:
    first, second = [(await collect(harness))[0].started.request_id for _ in range(2)]
    assert first
    assert first != second


async def test_deltas_carry_ids_and_logprobs_only_when_asked(harness: Harness) -> None:
    plain = await collect(harness, prompt="abc")
    assert not any(r.delta.token_ids or r.delta.logprobs for r in plain)
    assert all(r.delta.text for r in plain if r.HasField("delta"))
    full = await collect(harness, prompt="abc", output={"token_ids": True, "logprobs": True})
    ids = [i for r in full for i in r.delta.token_ids]
    assert ids == [*ids_of("abc"), EOS_ID]
    assert [p for r in full for p in r.delta.logprobs] == [-0.5] * 4


async def test_tokens_that_came_meanwhile_share_a_message(harness: Harness) -> None:
    async def burst(engine: FakeEngine, request: Request) -> None:
        for character in "burst":
            engine.say(request, character)
        engine.say(request, "", "stop_token")

    harness.engine.script = burst
    responses = await collect(harness)
    assert [r.delta.text for r in responses if r.HasField("delta")] == ["burst"]


async def test_coalescing_is_asked_of_the_engine(harness: Harness) -> None:
    await collect(harness, output={"coalesce_ms": 100})
    (request,) = harness.engine.requests
    assert isinstance(request, GenerateRequest)
    assert request.coalesce_ms == 100


async def test_length_ends_the_stream(harness: Harness) -> None:
    responses = await collect(harness, prompt="hello", stop={"max_new_tokens": 3})
    assert text_of(responses) == "hel"
    assert responses[-2].finished.reason == pb.FINISH_REASON_LENGTH


async def test_a_stop_string_ends_the_stream_and_the_engine_work(harness: Harness) -> None:
    async def talk(engine: FakeEngine, request: Request) -> None:
        for character in "one two three":
            engine.say(request, character)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    harness.engine.script = talk
    responses = await collect(harness, stop={"strings": [" tw", "zzz"]})
    assert text_of(responses) == "one"
    finished = responses[-2].finished
    assert (finished.reason, finished.stop_string) == (pb.FINISH_REASON_STOP_STRING, " tw")
    assert len(harness.engine.cancelled) == 1
    assert harness.engine.num_open == 0


async def test_stop_tokens_are_the_checkpoints_and_the_requests(harness: Harness) -> None:
    await collect(harness, stop={"token_ids": [9]})
    assert set(last_request(harness).stop_token_ids) == {EOS_ID, 9}
    await collect(harness, stop={"token_ids": [9], "ignore_eos": True})
    assert last_request(harness).stop_token_ids == [9]


async def test_unset_sampling_is_greedy_with_a_drawn_seed(harness: Harness) -> None:
    started = (await collect(harness))[0].started
    sampling = last_request(harness).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 0, 1)
    assert sampling.seed == started.seed
    assert (await collect(harness))[0].started.seed != started.seed


async def test_unset_sampling_follows_a_checkpoint_that_samples(
    launch: Any, infos: list[ModelInfo]
) -> None:
    generation = {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.25}
    harness = await launch([make_info("chat", infos[0].path, generation=generation)])
    await collect(harness)
    sampling = last_request(harness).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.25)
    await collect(harness, sampling={"temperature": 0, "top_k": 0, "top_p": 1})
    sampling = last_request(harness).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 0, 1)


async def test_given_sampling_reaches_the_engine(harness: Harness) -> None:
    given = {"temperature": 0.5, "top_k": 2**32 - 1, "top_p": 0.75, "seed": 2**64 - 1}
    started = (await collect(harness, sampling=given))[0].started
    sampling = last_request(harness).sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.75, 2**64 - 1)
    assert sampling.top_k == 2**31 - 1
    assert started.seed == 2**64 - 1


async def test_max_new_tokens_defaults_to_what_the_context_leaves(harness: Harness) -> None:
    await collect(harness, prompt="x" * 10)
    assert last_request(harness).max_new_tokens == CONTEXT_LEN - 10


@pytest.mark.parametrize(
    ("overrides", "field", "sizes"),
    [
        ({"prompt": "x" * CONTEXT_LEN}, "prompt", {"prompt_token_count": CONTEXT_LEN}),
        (
            {"prompt": "x" * 60, "stop": {"max_new_tokens": 5}},
            "prompt",
            {"prompt_token_count": 60, "max_new_tokens": 5},
        ),
        ({"token_ids": {"ids": [9] * 64}}, "token_ids", {"prompt_token_count": 64}),
    ],
)
async def test_a_prompt_beyond_the_context_is_refused_with_numbers(
    harness: Harness, overrides: dict[str, Any], field: str, sizes: dict[str, int]
) -> None:
    call = await failure(harness.generation.Generate(generate_request(overrides)))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = error_of(call, "")
    assert type(error).__name__ == "PromptTooLong"
    assert error.violations[0].field == field
    assert sizes.items() <= error.sizes.items()
    assert error.sizes["max_context_token_count"] == CONTEXT_LEN
    assert harness.engine.requests == []


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("nope", grpc.StatusCode.NOT_FOUND),
        ("mood", grpc.StatusCode.FAILED_PRECONDITION),
        ("", None),
    ],
)
async def test_model_selection(harness: Harness, model: str, code: grpc.StatusCode | None) -> None:
    call = harness.generation.Generate(generate_request({"model": model}))
    if code is None:
        assert (await call.read()).started.model == "chat"
    else:
        assert (await failure(call)).code() is code


async def test_an_empty_model_name_needs_a_single_candidate(
    launch: Any, infos: list[ModelInfo]
) -> None:
    two = await launch([make_info("a", infos[0].path), make_info("b", infos[0].path)])
    call = await failure(two.generation.Generate(generate_request({})))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert call.details() == "model: empty, must be one of a, b"


async def test_a_server_without_a_model_for_the_task_says_so(
    launch: Any, infos: list[ModelInfo]
) -> None:
    classifiers = await launch(infos[1:])
    call = await failure(classifiers.generation.Generate(generate_request({})))
    assert call.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_chat_is_rendered_by_the_template(harness: Harness) -> None:
    turns = [{"role": "user", "content": "hi"}]
    await collect(harness, chat={"messages": turns})
    request = tokenizer_service_pb2.RenderChatRequest(model="chat")
    request.chat.messages.add(role="user", content="hi")
    rendered = await harness.tokenizer.RenderChat(request)
    assert last_request(harness).prompt_ids == rendered.token_ids


async def test_a_request_id_in_use_is_refused_until_it_is_free(harness: Harness) -> None:
    harness.engine.script = hang
    running = harness.generation.Generate(generate_request({"request_id": "same"}))
    await running.read()
    call = await failure(harness.generation.Generate(generate_request({"request_id": "same"})))
    assert call.code() is grpc.StatusCode.ALREADY_EXISTS
    running.cancel()
    await until(lambda: harness.server.num_active_rpcs == 0)
    again = harness.generation.Generate(generate_request({"request_id": "same"}))
    assert (await again.read()).started.request_id == "same"
    again.cancel()


async def test_cancelling_the_call_frees_the_engine(harness: Harness) -> None:
    harness.engine.script = hang
    call = harness.generation.Generate(generate_request({}))
    await call.read()
    assert harness.engine.num_open == 1
    call.cancel()
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 1


async def test_a_lost_connection_frees_the_engine(harness: Harness) -> None:
    harness.engine.script = hang
    call = harness.generation.Generate(generate_request({}))
    await call.read()
    await harness.channel.close()
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 1


async def test_a_slow_reader_that_leaves_frees_the_engine(harness: Harness) -> None:
    """Cancelled while the server is stuck in a write, not waiting for a token."""

    async def flood(engine: FakeEngine, request: Request) -> None:
        while True:
            engine.say(request, "x" * 10_000)
            await asyncio.sleep(0)

    harness.engine.script = flood
    call = harness.generation.Generate(generate_request({}))
    await call.read()
    await asyncio.sleep(0.05)
    call.cancel()
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 1


async def test_a_deadline_ends_the_call_and_frees_the_engine(harness: Harness) -> None:
    harness.engine.script = hang
    call = await failure(harness.generation.Generate(generate_request({}), timeout=0.1))
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 1


async def test_overload_is_resource_exhausted_with_pushback(launch: Any) -> None:
    harness = await launch(max_open_sequences=1)
    harness.engine.script = hang
    running = harness.generation.Generate(generate_request({}))
    await running.read()
    call = await failure(harness.generation.Generate(generate_request({})))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error_of(call, ""), Overloaded)
    assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    running.cancel()


async def test_engine_death_mid_stream_is_unavailable(harness: Harness) -> None:
    harness.engine.script = hang
    call = harness.generation.Generate(generate_request({}))
    await call.read()
    harness.engine.die()
    error = await failure(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error_of(error, ""), Unavailable)
    refused = await failure(harness.generation.Generate(generate_request({})))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("error", [EngineFailed("secret"), RuntimeError("secret")])
async def test_an_engine_fault_is_internal_and_tells_nothing(
    harness: Harness, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Request) -> None:
        raise error

    monkeypatch.setattr(harness.engine, "_submit", fail)
    call = await failure(harness.generation.Generate(generate_request({})))
    assert call.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in call.details()
    assert call.details().startswith("internal error ")
    assert harness.engine.num_open == 0


async def test_not_found_lists_the_models(harness: Harness) -> None:
    call = await failure(harness.generation.Generate(generate_request({"model": "nope"})))
    error = error_of(call, "")
    assert isinstance(error, NotFound)
    assert (error.kind, error.name) == ("model", "nope")
    assert str(error) == "model 'nope' not found; known: chat, mood, names"


async def test_parallel_streams_do_not_mix(harness: Harness) -> None:
    prompts = [f"stream number {i}" for i in range(20)]
    answers = await asyncio.gather(*(collect(harness, prompt=prompt) for prompt in prompts))
    assert [text_of(answer) for answer in answers] == prompts
