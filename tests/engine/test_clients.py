"""Both engine clients, on tiny checkpoints: one behaviour, wherever the models live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from phi3svc.config.checkpoint import fingerprint
from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.engine.async_engine import EngineBase, LoadStatus, Stream
from phi3svc.engine.events import PromptEvent, TokenEvent
from phi3svc.engine.local import LocalEngine
from phi3svc.engine.process import EngineProcess
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    PromptTooLong,
    Unavailable,
    UnsupportedTask,
)
from phi3svc.model.loader import load_network
from tests.engine.core_runs import Answer, mixed_requests, run_alone
from tests.engine.requests import classify, generate

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = EngineConfig(
    max_step_tokens=32, max_sequences=4, max_waiting_requests=8, kv_memory_bytes=8 << 20
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[LocalEngine, EngineProcess])
async def engine(
    request: pytest.FixtureRequest, tiny: Path, two_headed: dict[str, Path]
) -> AsyncIterator[EngineBase]:
    specs = [
        ModelSpec("tiny", str(tiny)),
        ModelSpec("labels", str(two_headed["token-classification"]), "bfloat16"),
    ]
    client: EngineBase = request.param(specs, CONFIG)
    assert not client.healthy
    with pytest.raises(Unavailable, match="not started"):
        await collect(client, generate("a", [1], 1))
    progress: list[LoadStatus] = []
    await client.start(progress.append)
    assert client.healthy
    await asyncio.sleep(0)
    for name in ("tiny", "labels"):
        last = [status for status in progress if status.model == name][-1]
        assert last.done == last.total > 0
    yield client
    await client.close()
    assert not client.healthy
    await asyncio.wait_for(client.wait_dead(), 1)
    with pytest.raises(Unavailable, match="shut down"):
        await collect(client, generate("a", [1], 1))


async def collect(client: EngineBase, request: GenerateRequest) -> Answer:
    answer = Answer()
    async with aclosing(client.generate(request)) as events:
        async for event in events:
            answer.take(event)
    return answer


async def test_models_are_described(engine: EngineBase, tiny: Path) -> None:
    assert list(engine.models) == ["tiny", "labels"]
    info = engine.models["tiny"]
    assert (info.name, info.path, info.dtype) == ("tiny", tiny, "float32")
    assert info.fingerprint == fingerprint(tiny)
    assert info.tasks == {"generation"}
    assert info.max_context_len == info.config.max_position_embeddings == 512
    assert engine.models["labels"].dtype == "bfloat16"
    assert engine.models["labels"].tasks == {"generation", "token-classification"}


async def test_concurrent_streams_equal_runs_alone(engine: EngineBase, tiny: Path) -> None:
    requests = [r for r in mixed_requests(10) if isinstance(r, GenerateRequest)]
    answers = await asyncio.gather(*(collect(engine, request) for request in requests))
    expected = run_alone(load_network(tiny), list(requests))
    assert dict(zip(expected, answers, strict=True)) == expected


async def test_two_models_work_at_the_same_time(engine: EngineBase) -> None:
    text = classify("c", [1, 2, 3, 4], per_token=True, model="labels")
    alone = (await engine.classify(text)).scores
    _, *scores = await asyncio.gather(
        collect(engine, generate("a", [1, 2], 60)), engine.classify(text), engine.classify(text)
    )
    assert [event.scores for event in scores] == [alone, alone]
    assert [len(row) for row in alone] == [3, 3, 3, 3]


async def test_equal_request_ids_do_not_meet(engine: EngineBase) -> None:
    answers = await asyncio.gather(
        collect(engine, generate("same", [1], 5)), collect(engine, generate("same", [2], 5))
    )
    assert [len(answer.token_ids) for answer in answers] == [5, 5]
    assert answers[0] != answers[1]


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_a_stream_frees_its_place_at_once(engine: EngineBase, how: str) -> None:
    """Four places, all taken by streams that would run for long; leaving them lets others in."""

    async def read_forever(seen: asyncio.Event) -> None:
        async for _ in engine.generate(generate("long", [1] * 8, 500)):
            seen.set()

    for _ in range(3):
        if how == "cancel":
            seen = [asyncio.Event() for _ in range(4)]
            tasks = [asyncio.create_task(read_forever(event)) for event in seen]
            await asyncio.gather(*(event.wait() for event in seen))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        else:
            streams = [engine.generate(generate("long", [1] * 8, 500)) for _ in range(4)]
            for stream in streams:
                assert (await anext(stream)).finish is None
            for stream in streams:
                await stream.aclose()
        assert not engine._streams
        answer = await collect(engine, generate("after", [1], 3))
        assert len(answer.token_ids) == 3


async def test_a_stuck_consumer_holds_up_nobody_and_loses_nothing(engine: EngineBase) -> None:
    async with aclosing(engine.generate(generate("stuck", [1, 2, 3], 50))) as stuck:
        first = await anext(stuck)
        quick = await collect(engine, generate("quick", [1, 2, 3], 80))
        assert len(quick.token_ids) == 80
        late = [event async for event in stuck]
    assert len(late) <= 1, "all that was queued comes as one event"
    events = [first, *late]  # the first has all of it if the engine was much quicker than this
    assert [i for event in events for i in event.token_ids] == quick.token_ids[:50]
    assert isinstance(events[-1], TokenEvent)
    assert events[-1].timings is not None


async def test_bad_requests_raise_what_they_deserve(engine: EngineBase) -> None:
    with pytest.raises(NotFound, match="model 'huge' not found; known: tiny, labels"):
        await collect(engine, generate("a", [1], 1, model="huge"))
    with pytest.raises(UnsupportedTask, match="'tiny' has no head for sequence-classification"):
        await engine.classify(classify("a", [1]))
    with pytest.raises(PromptTooLong, match="512 tokens, not at most 511"):
        await collect(engine, generate("a", [1] * 512, 1))
    with pytest.raises(InvalidRequest, match="token id 300"):
        await collect(engine, generate("a", [300], 1))
    with pytest.raises(InvalidRequest, match=r"stop\.token_ids: 1025 ids, not at most 1024"):
        await collect(engine, generate("a", [1], 1, stop_token_ids=(1,) * 1025))
    assert not engine._streams


async def test_requests_at_the_limits_pass(engine: EngineBase) -> None:
    """Whatever the front lets through, the engine's strict decoding must accept."""
    stop_ids = tuple(2**31 - 1 - i for i in range(1024))
    extreme = SamplingParams(100.0, 2**31 - 1, 1e-9, 2**64 - 1)
    request = generate("a" * 1000, [0] * 510, 2**31 - 1, sampling=extreme, stop_token_ids=stop_ids)
    answer = await collect(engine, request)
    assert (len(answer.token_ids), answer.finish) == (2, "length")


async def test_more_requests_than_the_queue_holds_are_refused(engine: EngineBase) -> None:
    """Running and waiting: 4 + 8 for each model, and the same again for the two together."""
    streams = [engine.generate(generate(str(i), [1], 200)) for i in range(30)]
    tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
    done, _ = await asyncio.wait(tasks, timeout=0.5)
    refused = [task for task in done if isinstance(task.exception(), Overloaded)]
    # At once, 12 find room in the model's queue; later ones where others have ended meanwhile.
    assert 30 - 24 <= len(refused) <= 30 - 12
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for stream in streams:
        await stream.aclose()
    assert len((await collect(engine, generate("a", [1], 2))).token_ids) == 2


async def test_a_prompts_unread_log_probabilities_pause_its_stream() -> None:
    told: list[str] = []
    stream = Stream(5, lambda: told.append("pause"), lambda: told.append("resume"))
    stream.put(PromptEvent("a", 1, [-1.0] * 3))
    stream.put(TokenEvent("a", [1, 2]))
    assert told == []
    stream.put(PromptEvent("a", 4, [-1.0]))
    stream.put(PromptEvent("a", 5, [-1.0] * 9))
    assert told == ["pause"]
    assert len(await stream.drain()) == 4
    assert told == ["pause", "resume"]
    stream.put(PromptEvent("a", 14, [-1.0] * 5))
    assert told == ["pause", "resume"]
