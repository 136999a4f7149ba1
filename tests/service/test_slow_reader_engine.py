"""A slow reader of a real server: its answer and those of others have the undisturbed bits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec, ServerConfig
from phi3svc.engine.process import EngineProcess
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from phi3svc.v1 import generation_service_pb2 as pb
from phi3svc.v1 import generation_service_pb2_grpc
from tests.model.checkpoints import make_tiny_causal
from tests.service.test_end_to_end import ask
from tests.service.test_slow_reader import SMALL_WINDOW, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "A prompt."
OPTIONS: dict[str, Any] = {"max_new_tokens": 400, "ignore_eos": True, "temperature": 1, "seed": 3}


class Watched(EngineProcess):
    """Remembers which requests are paused."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.paused: set[str] = set()

    @property
    def is_paused(self) -> bool:
        """Whether any that is open is."""
        return not self.paused.isdisjoint(self._streams)

    def _pause(self, request_id: str) -> None:
        self.paused.add(request_id)
        super()._pause(request_id)

    def _resume(self, request_id: str) -> None:
        self.paused.discard(request_id)
        super()._resume(request_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Watched, str]]:
    folder: Path = tmp_path_factory.mktemp("slow")
    make_tiny_causal(folder / "chat")
    config = ServerConfig(
        models=(ModelSpec("chat", str(folder / "chat")),),
        listen=(f"unix:{folder}/server.sock",),
        slow_reader_timeout_s=3,
        engine=EngineConfig(num_threads=1, max_unread_tokens=20, kv_memory_bytes=16 << 20),
    )
    engine = Watched(config.models_to_load(), config.engine)
    server = Server(config, engine)
    await server.bind()
    await server.start()
    yield engine, config.listen[0]
    await server.stop(0)


def open_unread(channel: grpc.aio.Channel, coalesce_ms: int) -> Any:
    request = pb.GenerateRequest(model="chat", prompt=PROMPT)
    request.sampling.temperature, request.sampling.seed = OPTIONS["temperature"], OPTIONS["seed"]
    request.stop.max_new_tokens, request.stop.ignore_eos = OPTIONS["max_new_tokens"], True
    request.output.token_ids, request.output.coalesce_ms = True, coalesce_ms
    return generation_service_pb2_grpc.GenerationServiceStub(channel).Generate(request)


@pytest.mark.parametrize("coalesce_ms", [0, 5])
async def test_paused_and_resumed_it_gives_the_undisturbed_tokens(
    served: tuple[Watched, str], coalesce_ms: int
) -> None:
    engine, address = served
    async with (
        Client.connect(address) as client,
        grpc.aio.insecure_channel(address, options=SMALL_WINDOW) as channel,
    ):
        alone = await ask(client, PROMPT, model="chat", **OPTIONS)
        call = open_unread(channel, coalesce_ms)
        await until(lambda: engine.is_paused)
        (stream,) = engine._streams.values()
        await asyncio.sleep(0.2)
        num_unread = stream._num_unread
        # Beside it another gets its answer, and all of its bits.
        beside = await ask(client, PROMPT, model="chat", **OPTIONS)
        assert (beside.token_ids, beside.digest) == (alone.token_ids, alone.digest)
        assert engine.is_paused
        assert 20 < stream._num_unread == num_unread < 200
        token_ids: list[int] = []
        async for response in call:
            token_ids += response.delta.token_ids
    assert tuple(token_ids) == alone.token_ids
    assert not engine._streams


async def test_never_read_it_ends_and_leaves_nothing(served: tuple[Watched, str]) -> None:
    engine, address = served
    async with grpc.aio.insecure_channel(address, options=SMALL_WINDOW) as channel:
        call = open_unread(channel, 0)
        await until(lambda: engine.is_paused)
        await until(lambda: not engine._streams)
        with pytest.raises(grpc.aio.AioRpcError, match="took nothing for 3 s"):
            await asyncio.wait_for(_read_all(call), 10)


async def _read_all(call: Any) -> None:
    async for _ in call:
        pass
