"""The engine inside this process: for tests and for the Python API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.engine.async_engine import EngineBase, LoadStatus, ProgressCallback
from phi3svc.engine.events import EngineEvent
from phi3svc.engine.host import EngineHost
from phi3svc.engine.protocol import LoadProgress
from phi3svc.engine.request import CancelRequest, Control, PauseRequest, Request, ResumeRequest
from phi3svc.engine.sources import describe_models, resolve_models

logger = logging.getLogger(__name__)


class LocalEngine(EngineBase):
    """An EngineClient that steps its models in a thread of this process."""

    def __init__(self, models: Sequence[ModelSpec], config: EngineConfig) -> None:
        max_per_model = config.max_sequences + config.max_waiting_requests
        super().__init__(len(models) * max_per_model, config.max_unread_tokens)
        self._specs = models
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._inbox: list[Request | Control] = []
        self._has_mail = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        loop = asyncio.get_running_loop()

        def report(progress: LoadProgress) -> None:
            if on_progress is not None:
                status = LoadStatus(progress.model, progress.done, progress.total)
                loop.call_soon_threadsafe(on_progress, status)

        sources = await asyncio.to_thread(resolve_models, self._specs)
        host = await loop.run_in_executor(self._thread, EngineHost, sources, self._config, report)
        self._begin_serving(await asyncio.to_thread(describe_models, sources, host.models))
        self._driver = asyncio.create_task(self._drive(host))

    async def close(self, grace_s: float = 5.0) -> None:
        """A step that is running is waited for: a thread cannot be ended by force."""
        self._stop_serving("the engine is shut down")
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait([self._driver])
        await asyncio.to_thread(self._thread.shutdown)

    def _submit(self, request: Request) -> None:
        self._post(request)

    def _cancel(self, request_id: str, index: int | None = None) -> None:
        self._post(CancelRequest(request_id, index))

    def _pause(self, request_id: str) -> None:
        self._post(PauseRequest(request_id))

    def _resume(self, request_id: str) -> None:
        self._post(ResumeRequest(request_id))

    def _post(self, message: Request | Control) -> None:
        self._inbox.append(message)
        self._has_mail.set()

    async def _drive(self, host: EngineHost) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not host.has_work:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._has_mail.wait(), host.idle_s)
                self._has_mail.clear()
                mail, self._inbox = self._inbox, []
                self._dispatch(await loop.run_in_executor(self._thread, _turn, host, mail))
        except Exception:
            logger.exception("the engine failed")
            self._stop_serving("the engine failed")


def _turn(host: EngineHost, mail: Sequence[Request | Control]) -> list[EngineEvent]:
    """Take in what has arrived, then step once."""
    events = [event for message in mail for event in host.handle(message)]
    if host.has_work:
        events += host.step()
    return events
