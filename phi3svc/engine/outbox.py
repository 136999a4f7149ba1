"""Holds back tokens whose reader wants fewer, larger messages, until they are due.

Here and not in the front, because every message costs the front a wake-up, on cores that the engine
computes with. A request's first and last tokens are never held back, nor is what is no token.
Readers with the same interval are due at the same moments: one frame and one wake-up for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phi3svc.engine.events import EngineEvent, FailedEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.token_stream import merge

MAX_HELD_EVENTS = 256
"""Per sequence; then they go out whether due or not."""


@dataclass(slots=True)
class _Reader:
    """running: indices of the answers that go on. held: their tokens that nobody was told of."""

    interval_ms: int
    running: set[int]
    held: dict[int, list[TokenEvent]] = field(default_factory=dict)

    def release(self) -> list[EngineEvent]:
        events: list[EngineEvent] = [merge(parts) for parts in self.held.values()]
        self.held.clear()
        return events


@dataclass(slots=True)
class _Group:
    """Readers with one interval. tick: how many had passed when they were last told."""

    tick: int = -1
    readers: dict[str, _Reader] = field(default_factory=dict)


class Outbox:
    """What one engine has to tell, in order. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._readers: dict[str, _Reader] = {}
        self._groups: dict[int, _Group] = {}

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    def add(self, request: GenerateRequest) -> None:
        """Expect tokens for a request that has begun."""
        if request.coalesce_ms:
            reader = _Reader(request.coalesce_ms, set(range(request.n)))
            self._readers[request.request_id] = reader
            group = self._groups.setdefault(request.coalesce_ms, _Group())
            group.readers[request.request_id] = reader

    def forget(self, request_id: str, index: int | None = None) -> None:
        """Drop what is held of a request or of one of its answers; nothing more comes of it."""
        reader = self._readers.get(request_id)
        if reader is None:
            return
        if index is not None:
            reader.held.pop(index, None)
            reader.running.discard(index)
        if index is None or not reader.running:
            del self._readers[request_id]
            group = self._groups[reader.interval_ms]
            del group.readers[request_id]
            if not group.readers:
                del self._groups[reader.interval_ms]

    def release(self, request_id: str) -> list[EngineEvent]:
        """What is held of a request, to be told now."""
        reader = self._readers.get(request_id)
        return [] if reader is None else reader.release()

    def pass_on(self, events: Sequence[EngineEvent]) -> list[EngineEvent]:
        """Take in what a step brought; what is to be told now."""
        told: list[EngineEvent] = []
        for event in events:
            reader = self._readers.get(event.request_id)
            if reader is None:
                told.append(event)
            elif isinstance(event, TokenEvent):
                self._pass_tokens(reader, event, told)
            else:
                told += reader.release()
                told.append(event)
                if isinstance(event, FailedEvent):
                    self.forget(event.request_id)
        if self._groups:
            self._pass_due(told)
        return told

    def _pass_tokens(self, reader: _Reader, event: TokenEvent, told: list[EngineEvent]) -> None:
        parts = reader.held.setdefault(event.index, [])
        parts.append(event)
        # Timings mark an answer's first and last event.
        if event.timings is not None or len(parts) >= MAX_HELD_EVENTS:
            told.append(merge(reader.held.pop(event.index)))
        if event.finish is not None:
            self.forget(event.request_id, event.index)

    def _pass_due(self, told: list[EngineEvent]) -> None:
        now_ms = int(self._clock() * 1000)
        for interval_ms, group in self._groups.items():
            tick = now_ms // interval_ms
            if tick != group.tick:
                group.tick = tick
                for reader in group.readers.values():
                    told += reader.release()
