"""The engine in a child process: starts it, talks to it, notices its death."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.engine.async_engine import EngineBase, LoadStatus, ProgressCallback
from phi3svc.engine.events import StepEvents
from phi3svc.engine.protocol import (
    FrameReader,
    FromEngine,
    Load,
    LoadFailed,
    LoadProgress,
    Ready,
    Shutdown,
    decode_from_engine,
    encode_frame,
)
from phi3svc.engine.request import CancelRequest, Control, PauseRequest, Request, ResumeRequest
from phi3svc.engine.sources import describe_models, resolve_models
from phi3svc.errors import ConfigError, EngineFailed

logger = logging.getLogger(__name__)


class EngineProcess(EngineBase):
    """An EngineClient whose models live in a process of their own.

    A crash there, whatever the cause, ends this engine's streams with Unavailable and nothing else.
    """

    def __init__(self, models: Sequence[ModelSpec], config: EngineConfig) -> None:
        max_per_model = config.max_sequences + config.max_waiting_requests
        super().__init__(len(models) * max_per_model, config.max_unread_tokens)
        self._specs = models
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._on_progress: ProgressCallback | None = None

    @property
    def pid(self) -> int | None:
        """Of the engine process; None before `start`."""
        return self._process.pid if self._process is not None else None

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        self._on_progress = on_progress
        self._ready = asyncio.get_running_loop().create_future()
        try:
            await self._spawn()
            # Meanwhile the process is importing what it needs.
            sources = await asyncio.to_thread(resolve_models, self._specs)
            self._send(Load(sources, self._config))
            ready = await self._ready
            self._begin_serving(await asyncio.to_thread(describe_models, sources, ready.models))
        except BaseException:
            self._ready.cancel()
            await self.close(grace_s=0.0)
            raise

    async def close(self, grace_s: float = 5.0) -> None:
        self._stop_serving("the engine is shut down")
        if self._process is None:
            return
        try:
            if self._transport is not None and not self._transport.is_closing():
                self._send(Shutdown())
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        finally:
            if self._transport is not None:
                self._transport.close()

    def _submit(self, request: Request) -> None:
        self._send(request)

    def _cancel(self, request_id: str, index: int | None = None) -> None:
        self._send(CancelRequest(request_id, index))

    def _pause(self, request_id: str) -> None:
        self._send(PauseRequest(request_id))

    def _resume(self, request_id: str) -> None:
        self._send(ResumeRequest(request_id))

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # -P: the folder we happen to be in is no place to import from. A session of its own:
            # signals of the terminal are for the front.
            self._process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "phi3svc.engine.worker",
                    "--fd",
                    str(theirs.fileno()),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(
            lambda: _EngineConnection(self._on_message, self._on_lost), sock=ours
        )

    def _send(self, message: Load | Request | Control | Shutdown) -> None:
        assert self._transport is not None
        self._transport.write(encode_frame(message))

    def _on_message(self, message: FromEngine) -> None:
        assert self._ready is not None
        match message:
            case StepEvents():
                self._dispatch(message.events)
            case LoadProgress():
                if self._on_progress is not None:
                    self._on_progress(LoadStatus(message.model, message.done, message.total))
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(message)
            case LoadFailed():
                error = ConfigError if message.is_config else EngineFailed
                if not self._ready.done():
                    self._ready.set_exception(error(message.message))

    def _on_lost(self) -> None:
        assert self._ready is not None
        if self._serving:
            logger.error("the engine process %s has died", self.pid)
            self._stop_serving("the engine process has died")
        if not self._ready.done():
            self._ready.set_exception(EngineFailed("the engine process died while it was starting"))


class _EngineConnection(asyncio.Protocol):
    """The front's end of the socket pair: frames in, and one call when it is over."""

    def __init__(
        self, on_message: Callable[[FromEngine], None], on_lost: Callable[[], None]
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._reader = FrameReader()

    def data_received(self, data: bytes) -> None:
        for payload in self._reader.feed(data):
            self._on_message(decode_from_engine(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()
