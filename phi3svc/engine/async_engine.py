"""What the service sees of an engine: `EngineClient`, and the part its implementations share.

`process.EngineProcess` runs the models in a child process; `local.LocalEngine` runs them in this
one. Both extend `EngineBase`, which checks requests before they cost anything, routes events to
per-request streams, and turns a closed stream into a cancellation and a dead engine into errors.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec import structs

from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import Phi3Config
from phi3svc.engine.events import (
    EngineEvent,
    FailedEvent,
    PromptEvent,
    ScoresEvent,
    TokenEvent,
)
from phi3svc.engine.request import (
    ClassifyRequest,
    GenerateRequest,
    Request,
    check_request,
)
from phi3svc.engine.token_stream import Connection, TokenStream
from phi3svc.errors import NotFound, Overloaded, Unavailable, UnsupportedTask


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model, as far as the front needs to know it.

    path: the checkpoint's folder; text.Tokenizer and text.ChatTemplate load from it.
    max_context_len: tokens a prompt and its answer may have together (the config's limit, or less
    where the KV memory is smaller). dtype: of the weights, as `--dtype` has it. fingerprint: hex
    digest of the checkpoint's content. tasks: subset of {"generation", "sequence-classification",
    "token-classification"}.
    """

    name: str
    path: Path
    config: Phi3Config
    max_context_len: int
    dtype: str
    fingerprint: str
    tasks: frozenset[str]


@dataclass(frozen=True)
class LoadStatus:
    """How far loading has come: `done` of `total` bytes of the named model's weights."""

    model: str
    done: int
    total: int


ProgressCallback = Callable[[LoadStatus], None]


class EngineClient(Protocol):
    """An engine, seen from the front's event loop. All methods belong to that one loop."""

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The served models by name, in the order given; empty until `start` returned."""

    @property
    def healthy(self) -> bool:
        """True from the end of `start` until `close` begins or the engine dies."""

    async def start(self, on_progress: ProgressCallback | None = None) -> None:
        """Load every model. Raises ConfigError for a bad checkpoint or setting."""

    async def close(self, grace_s: float = 5.0) -> None:
        """End the engine, by force after `grace_s` seconds. Open streams raise Unavailable."""

    async def wait_dead(self) -> None:
        """Return when the engine has stopped serving, whether closed or dead."""

    def generate(self, request: GenerateRequest) -> TokenStream:
        """The tokens of one request, sequence by sequence: see `TokenStream`.

        Iterating raises InvalidRequest, PromptTooLong, NotFound, UnsupportedTask, Overloaded,
        DeadlineExceeded, Unavailable or EngineFailed, the last three at any time.
        request_id need not be unique; events carry an id of the engine's own.
        """

    async def classify(self, request: ClassifyRequest) -> ScoresEvent:
        """Score one text; raises as `generate` does. Cancelling the task cancels the request."""


class Stream:
    """Events of one request on their way to its consumer.

    Never blocks the producer: a consumer that is stuck holds up nobody. With more than `max_unread`
    tokens queued, those of a prompt included, `pause` asks the producer to stop; what is on its way
    by then still comes. Once they are taken, `resume` asks it to go on.
    """

    def __init__(
        self, max_unread: int, pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self._max_unread = max_unread
        self._pause = pause
        self._resume = resume
        self._events: deque[EngineEvent] = deque()
        self._num_unread = 0
        self._is_paused = False
        self._wake: asyncio.Future[None] | None = None

    def put(self, event: EngineEvent) -> None:
        self._events.append(event)
        if isinstance(event, TokenEvent):
            self._num_unread += len(event.token_ids)
        elif isinstance(event, PromptEvent):
            self._num_unread += len(event.logprobs)
        if self._num_unread > self._max_unread and not self._is_paused:
            self._is_paused = True
            self._pause()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def drain(self) -> list[EngineEvent]:
        """Everything queued, at least one event."""
        while not self._events:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        drained = list(self._events)
        self._events.clear()
        self._num_unread = 0
        if self._is_paused:
            self._is_paused = False
            self._resume()
        return drained


class EngineBase(ABC):
    """Shared half of the engine clients; subclasses move requests and events."""

    def __init__(
        self, max_open_sequences: int, max_unread_tokens: int = EngineConfig.max_unread_tokens
    ) -> None:
        """max_open_sequences: per engine; beyond it requests are refused with Overloaded.

        max_unread_tokens: of a request, times its `n`; beyond it the engine is asked to pause.
        """
        self._max_unread_tokens = max_unread_tokens
        self._max_open_sequences = max_open_sequences
        self._num_open_sequences = 0
        self._models: dict[str, ModelInfo] = {}
        self._streams: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._dead = asyncio.Event()
        self._death_message = "the engine is not started"
        self._serving = False

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        return self._models

    @property
    def healthy(self) -> bool:
        return self._serving

    async def wait_dead(self) -> None:
        await self._dead.wait()

    def generate(self, request: GenerateRequest) -> TokenStream:
        return TokenStream(request.n, lambda: self._open(request))

    async def classify(self, request: ClassifyRequest) -> ScoresEvent:
        connection = self._open(request)
        has_ended = False
        try:
            event = (await connection.drain())[0]
            has_ended = True
            if isinstance(event, FailedEvent):
                raise event.to_error()
            assert isinstance(event, ScoresEvent)
            return event
        finally:
            connection.close(not has_ended)

    @abstractmethod
    def _submit(self, request: Request) -> None:
        """Hand a request to the engine; must not block."""

    @abstractmethod
    def _cancel(self, request_id: str, index: int | None = None) -> None:
        """Tell the engine to forget a request or one of its sequences; must not block."""

    @abstractmethod
    def _pause(self, request_id: str) -> None:
        """Ask the engine for no more tokens of a request; must not block."""

    @abstractmethod
    def _resume(self, request_id: str) -> None:
        """Ask the engine to go on with a paused request; must not block."""

    def _dispatch(self, events: Iterable[EngineEvent]) -> None:
        """Give each event to its stream; those of cancelled requests fall away."""
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is not None:
                stream.put(event)

    def _begin_serving(self, models: Iterable[ModelInfo]) -> None:
        self._models = {model.name: model for model in models}
        self._serving = True

    def _stop_serving(self, message: str) -> None:
        """End every open stream and refuse new ones, with Unavailable: both may be tried again."""
        self._serving = False
        self._death_message = message
        for request_id, stream in self._streams.items():
            stream.put(FailedEvent(request_id, "unavailable", message))
        # The engine may still be talking; nothing must come behind a stream's last event.
        self._streams.clear()
        self._num_open_sequences = 0
        self._dead.set()

    def _check(self, request: Request) -> None:
        if not self._serving:
            raise Unavailable(self._death_message)
        model = self._models.get(request.model)
        if model is None:
            raise NotFound("model", request.model, tuple(self._models))
        if request.task not in model.tasks:
            heads = ", ".join(sorted(model.tasks)) or "none"
            raise UnsupportedTask(
                f"model {model.name!r} has no head for {request.task}; its heads: {heads}"
            )
        check_request(request, model.config.vocab_size, model.max_context_len)

    def _open(self, request: Request) -> Connection:
        self._check(request)
        num_sequences = request.n if isinstance(request, GenerateRequest) else 1
        num_open = self._num_open_sequences
        # An idle engine takes any request: one beyond the bound could never come in.
        if num_open > 0 and num_open + num_sequences > self._max_open_sequences:
            raise Overloaded(
                f"{num_open} sequences are open and {num_sequences} more would exceed the limit of"
                f" {self._max_open_sequences}; try again later"
            )
        request_id = str(next(self._numbers))
        stream = self._streams[request_id] = Stream(
            self._max_unread_tokens * num_sequences,
            pause=lambda: self._pause(request_id),
            resume=lambda: self._resume(request_id),
        )
        self._num_open_sequences += num_sequences
        try:
            self._submit(structs.replace(request, request_id=request_id))
        except BaseException:
            self._close(request_id, num_sequences, cancel=False)
            raise
        return Connection(
            stream.drain,
            stop=lambda index: self._cancel(request_id, index),
            close=lambda cancel: self._close(request_id, num_sequences, cancel=cancel),
        )

    def _close(self, request_id: str, num_sequences: int, *, cancel: bool) -> None:
        if self._streams.pop(request_id, None) is None:
            return
        self._num_open_sequences -= num_sequences
        if cancel:
            self._cancel(request_id)
