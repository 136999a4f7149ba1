"""A client that leaves its whole connection unread, with more than one stream on it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from phi3svc.engine.request import Request
from phi3svc.v1 import generation_service_pb2 as pb
from tests.service.conftest import Harness
from tests.service.fake_engine import FakeEngine, echo
from tests.service.test_slow_reader import is_paused, until

LARGEST_WINDOW = 2**31 - 1
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS = 1, 4

Launch = Callable[..., Awaitable[Harness]]


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """RFC 9113, 4.1."""
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream_id) + payload


def opening() -> bytes:
    """A connection on which HTTP/2 flow control lets everything through: only the socket fills."""
    window = struct.pack(">HI", 4, LARGEST_WINDOW)
    more = struct.pack(">I", LARGEST_WINDOW - 65535)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return preface + frame(SETTINGS, 0, 0, window) + frame(WINDOW_UPDATE, 0, 0, more)


def call(stream_id: int) -> bytes:
    """A call of Generate, with its headers spelled out."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/phi3svc.v1.GenerationService/Generate",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    )
    message = pb.GenerateRequest(model="chat", prompt="x").SerializeToString()
    body = b"\0" + struct.pack(">I", len(message)) + message
    return frame(HEADERS, END_HEADERS, stream_id, block) + frame(DATA, END_STREAM, stream_id, body)


async def flood_without_end(engine: FakeEngine, request: Request) -> None:
    while True:
        await until(lambda: not is_paused(engine))
        engine.say(request, "." * 2000)
        await asyncio.sleep(0)


async def stays_paused(engine: FakeEngine) -> None:
    """Returns when nothing has been taken for a while."""
    async with asyncio.timeout(5):
        while True:
            num_resumed = len(engine.resumed)
            await asyncio.sleep(0.3)
            if is_paused(engine) and len(engine.resumed) == num_resumed:
                return


async def test_a_stream_that_cannot_even_begin_ends_too(launch: Launch, tmp_path: Path) -> None:
    harness = await launch(slow_reader_timeout_s=1.5)
    harness.engine.script = flood_without_end
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/phi3svc.sock")
        connection.sendall(opening() + call(1))
        await stays_paused(harness.engine)
        harness.engine.script = echo
        connection.sendall(call(3))
        await until(lambda: len(harness.engine.requests) == 2)
        assert harness.server.num_active_rpcs == 2
        async with asyncio.timeout(5):
            await until(lambda: harness.server.num_active_rpcs == 0)
        assert harness.engine.num_open == 0
