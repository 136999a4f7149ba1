"""A real grpc.aio server in front of a `FakeEngine`, on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest

from phi3svc.config.server import ServerConfig
from phi3svc.engine.async_engine import ModelInfo
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from phi3svc.v1 import (
    classification_service_pb2_grpc,
    generation_service_pb2_grpc,
    model_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
)
from tests.service.fake_engine import (
    ENTITY_LABELS,
    SENTIMENT_LABELS,
    FakeEngine,
    make_info,
    write_checkpoint,
)


@pytest.fixture(scope="session")
def infos(tmp_path_factory: pytest.TempPathFactory) -> list[ModelInfo]:
    """One model per task: `chat`, `mood`, `names`."""
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")
    return [
        make_info("chat", folder),
        make_info(
            "mood",
            folder,
            "Phi3ForSequenceClassification",
            id2label=dict(enumerate(SENTIMENT_LABELS)),
        ),
        make_info(
            "names", folder, "Phi3ForTokenClassification", id2label=dict(enumerate(ENTITY_LABELS))
        ),
    ]


class Harness:
    """A running server, its engine, raw stubs and a client."""

    def __init__(self, engine: FakeEngine, server: Server, address: str) -> None:
        self.engine = engine
        self.server = server
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self.client = Client(self.channel, address)
        self.generation = generation_service_pb2_grpc.GenerationServiceStub(self.channel)
        self.classification = classification_service_pb2_grpc.ClassificationServiceStub(
            self.channel
        )
        self.tokenizer = tokenizer_service_pb2_grpc.TokenizerServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)


Launch = Callable[..., "AsyncIterator[Harness]"]


@pytest.fixture
async def launch(infos: list[ModelInfo], tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts servers: `await launch(models=…, is_started=False, max_open_sequences=…)`.

    Other arguments are settings of the server.
    """
    async with AsyncExitStack() as stack:

        async def start(
            models: list[ModelInfo] | None = None,
            listen: str = f"unix:{tmp_path}/phi3svc.sock",
            is_started: bool = True,
            max_open_sequences: int = 64,
            **settings: object,
        ) -> Harness:
            engine = FakeEngine(infos if models is None else models, max_open_sequences)
            config = ServerConfig(listen=(listen,), **settings)  # type: ignore[arg-type]
            server = Server(config, engine)
            stack.push_async_callback(server.stop, 0)
            (address,) = await server.bind()
            if is_started:
                await server.start()
            harness = Harness(engine, server, address)
            stack.push_async_callback(harness.channel.close)
            return harness

        yield start


@pytest.fixture
async def harness(launch: Callable[..., object]) -> Harness:
    return await launch()  # type: ignore[misc, no-any-return]
