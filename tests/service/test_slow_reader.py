"""A client that does not read: paused, cancelled after a while, and a burden to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from phi3svc.engine.events import Delta
from phi3svc.engine.request import Request
from phi3svc.v1 import generation_service_pb2 as pb
from phi3svc.v1 import generation_service_pb2_grpc
from tests.service.conftest import Harness
from tests.service.fake_engine import FakeEngine, echo

# As little as HTTP/2 flow control can be made to let through unread.
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
NUM_PIECES = 200
PIECE_LEN = 600
TEXT = "".join(f"{i:03d}".ljust(PIECE_LEN, ".") for i in range(NUM_PIECES))

Launch = Callable[..., Awaitable[Harness]]


async def flood(engine: FakeEngine, request: Request) -> None:
    """Tells TEXT as fast as it may: not while it is paused."""
    for i in range(NUM_PIECES):
        await until(lambda: not is_paused(engine))
        engine.say(request, TEXT[i * PIECE_LEN : (i + 1) * PIECE_LEN])
        await asyncio.sleep(0)
    engine.say(request, "", "length")


def is_paused(engine: FakeEngine) -> bool:
    return len(engine.paused) > len(engine.resumed)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited for 10 s")


async def read_all(call: Any, texts: list[str]) -> None:
    async for response in call:
        texts.append(response.delta.text)


@asynccontextmanager
async def unread_stream(harness: Harness) -> AsyncIterator[Any]:
    """A stream of TEXT that its client has not begun to read; the engine is paused for it."""
    harness.engine.script = flood
    async with grpc.aio.insecure_channel(harness.address, options=SMALL_WINDOW) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        call = stub.Generate(pb.GenerateRequest(model="chat", prompt="x"))
        await until(lambda: is_paused(harness.engine))
        yield call


async def test_a_paused_stream_goes_on_when_it_is_read(harness: Harness) -> None:
    async with unread_stream(harness) as call:
        await asyncio.sleep(0.1)
        assert is_paused(harness.engine)
        (stream,) = harness.engine._streams.values()
        assert stream._num_unread <= 512 + PIECE_LEN
        responses = [response async for response in call]
    assert "".join(r.delta.text for r in responses) == TEXT
    assert [r.seq for r in responses] == list(range(len(responses)))
    assert not harness.engine.cancelled
    assert len(harness.engine.paused) == len(harness.engine.resumed) > 1


async def test_an_unread_stream_ends_after_the_timeout(launch: Launch) -> None:
    harness = await launch(slow_reader_timeout_s=0.3)
    async with unread_stream(harness) as call:
        started_s = time.monotonic()
        await until(lambda: not harness.engine.num_open)
        assert 0.2 < time.monotonic() - started_s < 3
        assert len(harness.engine.cancelled) == 1
        assert harness.server.num_active_rpcs == 0
        # Whoever reads after all finds what was under way, and then the status.
        texts: list[str] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(call, texts)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert "the client took nothing for 0.3 s" in (caught.value.details() or "")
    assert rpc_status.from_call(caught.value).details[0].Unpack(info := ErrorInfo())
    assert info.reason == "SLOW_READER"
    assert TEXT.startswith("".join(texts))
    assert len("".join(texts)) < len(TEXT)


async def test_a_reader_that_is_slow_but_reads_is_let_be(launch: Launch) -> None:
    harness = await launch(slow_reader_timeout_s=0.2)
    async with unread_stream(harness) as call:
        text = ""
        for _ in range(6):
            await asyncio.sleep(0.1)
            text += (await call.read()).delta.text
        while (response := await call.read()) is not grpc.aio.EOF:
            text += response.delta.text
    assert text == TEXT


async def test_other_streams_do_not_notice(harness: Harness) -> None:
    async with unread_stream(harness):
        harness.engine.script = echo
        async with asyncio.timeout(5):
            events = [event async for event in harness.client.generate("hello", model="chat")]
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "hello"
        assert is_paused(harness.engine)
