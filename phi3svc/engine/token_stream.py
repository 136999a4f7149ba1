"""The tokens of one generation request, as its reader takes them: an async iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from phi3svc.engine.events import EngineEvent, FailedEvent, PromptEvent, TokenEvent

GeneratedEvent = PromptEvent | TokenEvent


@dataclass(frozen=True, slots=True)
class Connection:
    """A request that the engine has.

    drain: waits for events and returns all that came since the last call. stop: tells the engine to
    forget one of the sequences. close: takes no more events; if true, the engine is told to forget
    the request.
    """

    drain: Callable[[], Awaitable[list[EngineEvent]]]
    stop: Callable[[int], None]
    close: Callable[[bool], None]


class TokenStream:
    """Yields PromptEvents in order, then for each sequence its TokenEvents.

    A TokenEvent has all that came of its sequence until the stream was last waited for, so that a
    slow reader gets fewer and larger ones; of several sequences, each that has something new comes
    once before any comes again. Ends when every sequence has finished or was stopped.

    Nothing is sent before the first `anext`. Closing the stream, or cancelling the task that waits
    in it, cancels the request at once.
    """

    def __init__(self, num_sequences: int, connect: Callable[[], Connection]) -> None:
        """connect: hands the request to the engine; may raise any of the engine's errors."""
        self._running = set(range(num_sequences))
        self._connect = connect
        self._connection: Connection | None = None
        self._ready: deque[GeneratedEvent] = deque()
        self._events = self._read()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[GeneratedEvent]:
        return self._events.__anext__()

    async def aclose(self) -> None:
        await self._events.aclose()

    def stop(self, index: int) -> None:
        """End one sequence before its time; nothing of it comes any more, the others go on."""
        self._ready = deque(
            event
            for event in self._ready
            if not (isinstance(event, TokenEvent) and event.index == index)
        )
        if index not in self._running or self._connection is None:
            return
        self._running.discard(index)
        if self._running:
            self._connection.stop(index)
        else:
            self._connection.close(True)

    async def _read(self) -> AsyncGenerator[GeneratedEvent, None]:
        connection = self._connection = self._connect()
        failure: FailedEvent | None = None
        try:
            while self._running or self._ready:
                if self._ready:
                    yield self._ready.popleft()
                elif failure is not None:
                    raise failure.to_error()
                else:
                    failure = self._take(await connection.drain())
        finally:
            connection.close(bool(self._running) and failure is None)

    def _take(self, events: Sequence[EngineEvent]) -> FailedEvent | None:
        """Make events ready, and return the failure if there is one: always the last."""
        tokens: dict[int, list[TokenEvent]] = {}
        for event in events:
            if isinstance(event, TokenEvent):
                if event.index in self._running:
                    tokens.setdefault(event.index, []).append(event)
            elif isinstance(event, PromptEvent):
                self._ready.append(event)
        for index, parts in tokens.items():
            event = merge(parts)
            self._ready.append(event)
            if event.finish is not None:
                self._running.discard(index)
        last = events[-1]
        return last if isinstance(last, FailedEvent) else None


def merge(events: list[TokenEvent]) -> TokenEvent:
    """One event for all that came of a sequence."""
    if len(events) == 1:
        return events[0]
    return TokenEvent(
        events[0].request_id,
        [token_id for event in events for token_id in event.token_ids],
        [logprob for event in events for logprob in event.logprobs],
        events[-1].finish,
        next((event.timings for event in reversed(events) if event.timings), None),
        events[0].index,
        [top for event in events for top in event.top],
    )
