"""Builds and runs the grpc.aio server: our services, health, reflection, limits, graceful stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from phi3svc.config.server import ServerConfig
from phi3svc.engine.async_engine import EngineClient, ProgressCallback
from phi3svc.errors import EngineFailed
from phi3svc.service import health
from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.classification import ClassificationServicer
from phi3svc.service.generation import GenerationServicer
from phi3svc.service.interceptors import Gate, RpcInterceptor
from phi3svc.service.listeners import bind
from phi3svc.service.models import ModelServicer
from phi3svc.service.reflection import add_reflection
from phi3svc.service.tokenizer import TokenizerServicer
from phi3svc.v1 import (
    classification_service_pb2_grpc,
    generation_service_pb2_grpc,
    model_service_pb2_grpc,
    tokenizer_service_pb2_grpc,
)

GENERATION = "phi3svc.v1.GenerationService"
CLASSIFICATION = "phi3svc.v1.ClassificationService"
TOKENIZER = "phi3svc.v1.TokenizerService"
MODELS = "phi3svc.v1.ModelService"
SERVICES = (GENERATION, CLASSIFICATION, TOKENIZER, MODELS)

MAX_SEND_BYTES = 64 << 20
# Enough to tokenize for many streams: it is short work, and the engine needs the cores.
NUM_TEXT_THREADS = 2
# What statuses already written get to reach their clients once every RPC has ended.
FLUSH_S = 1.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("phi3svc.service")


class Server:
    """A server over an engine, in steps: `bind`, `start`, `stop`. One per event loop.

    `bind` claims the addresses, so that a busy one fails before any model loads; until `start`
    returns, RPCs are refused with UNAVAILABLE and health is NOT_SERVING.
    """

    def __init__(self, config: ServerConfig, engine: EngineClient) -> None:
        self._config = config
        self._engine = engine
        self._catalog = Catalog()
        self._gate = Gate()
        self._health = health.HealthServicer(SERVICES)
        self._text_threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="text")
        self._server = grpc.aio.server(
            interceptors=[RpcInterceptor(self._gate, config.slow_reader_timeout_s)],
            options=_options(config),
        )
        self._death_watch: asyncio.Task[None] | None = None
        self._add_services()

    @property
    def num_active_rpcs(self) -> int:
        return self._gate.num_active

    async def bind(self) -> tuple[str, ...]:
        """Listens; returns the addresses with real ports. Raises ConfigError for a bad one."""
        addresses = tuple(bind(self._server, address) for address in self._config.listen)
        await self._server.start()
        return addresses

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        """Loads the models, then takes work. Raises ConfigError for a bad checkpoint."""
        await self._engine.start(on_progress)
        infos = list(self._engine.models.values())
        self._catalog.fill([await asyncio.to_thread(ServedModel.load, info) for info in infos])
        self._gate.open()
        self._health.set_serving(self._able_services(), is_serving=True)
        self._death_watch = asyncio.create_task(self._watch_engine())

    async def wait_engine_dead(self) -> None:
        """Returns when the engine is gone; health says NOT_SERVING by then."""
        assert self._death_watch is not None, "not started"
        await asyncio.shield(self._death_watch)

    async def stop(self, grace_s: float, hurrying: asyncio.Event | None = None) -> None:
        """Refuses new work, lets running RPCs finish for `grace_s` seconds, then ends them.

        hurrying: cuts the grace short once set.
        """
        self._health.set_serving(is_serving=False)
        self._gate.close("the server is draining; try another replica")
        try:
            async with asyncio.timeout(grace_s):
                await _finishes(self._gate.wait_idle(), unless=hurrying or asyncio.Event())
        except TimeoutError:
            pass
        if self._gate.num_active:
            _log.warning("ending %d RPCs: no grace left", self._gate.num_active)
            self._gate.end_all("the server stopped before the answer was complete")
            await self._gate.wait_idle()
        if self._death_watch is not None:
            self._death_watch.cancel()
        await self._server.stop(FLUSH_S)
        await self._engine.close()
        self._text_threads.shutdown(wait=False, cancel_futures=True)

    async def _watch_engine(self) -> None:
        await self._engine.wait_dead()
        self._health.set_serving(is_serving=False)
        self._gate.close("the engine is gone; try another replica")
        _log.error("the engine is gone; refusing all work")

    def _able_services(self) -> list[str]:
        can = self._catalog.can
        services = [TOKENIZER, MODELS]
        if can("generation"):
            services.append(GENERATION)
        if can("sequence-classification") or can("token-classification"):
            services.append(CLASSIFICATION)
        return services

    def _add_services(self) -> None:
        server, catalog, threads = self._server, self._catalog, self._text_threads
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(self._engine, catalog, threads), server
        )
        classification_service_pb2_grpc.add_ClassificationServiceServicer_to_server(
            ClassificationServicer(self._engine, catalog, threads), server
        )
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
            TokenizerServicer(catalog, threads), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection(server, (*SERVICES, health.SERVICE_NAME))


async def serve(
    config: ServerConfig,
    engine: EngineClient,
    on_ready: Callable[[tuple[str, ...]], None],
    on_progress: ProgressCallback | None = None,
) -> None:
    """Runs a server until SIGTERM or SIGINT; a second signal ends it without grace.

    on_ready: called once with the real addresses when models are loaded and health is SERVING.
    Raises ConfigError for a busy address or bad checkpoint, EngineFailed when the engine dies.
    """
    server = Server(config, engine)
    stopping, hurrying = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, lambda: (hurrying if stopping.is_set() else stopping).set())
    grace_s = 0.0
    try:
        addresses = await server.bind()
        if await _finishes(server.start(on_progress), unless=stopping):
            # What is there by now stays: the garbage collector need not look at it ever again.
            gc.collect()
            gc.freeze()
            on_ready(addresses)
            if await _finishes(server.wait_engine_dead(), unless=stopping):
                raise EngineFailed("the engine died; see the log")
            grace_s = config.grace_s
    finally:
        await server.stop(grace_s, hurrying)
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _finishes(work: Coroutine[Any, Any, None], *, unless: asyncio.Event) -> bool:
    """Runs `work` to its end, or cancels it once the event is set; says whether it ended."""
    task = asyncio.ensure_future(work)
    event = asyncio.ensure_future(unless.wait())
    try:
        await asyncio.wait([task, event], return_when=asyncio.FIRST_COMPLETED)
    finally:
        event.cancel()
        has_ended = task.done()
        task.cancel()
        await asyncio.wait([task])
    if has_ended:
        task.result()
    return has_ended


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would each get a share of the connections; fail instead.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_receive_bytes),
        ("grpc.max_send_message_length", MAX_SEND_BYTES),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", 1024),
        # Finds dead peers behind silent proxies, and lets clients ask as often as that.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
