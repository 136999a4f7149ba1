"""Notices that the client of a stream has stopped reading, and ends the call."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import grpc.aio

from phi3svc.errors import SlowReader


class ReaderWatch:
    """A context manager around the writes of one streaming call, in the call's own task.

    A write waits while the client takes nothing: HTTP/2 flow control. If it waits for `timeout_s`,
    what the call is doing is cancelled, and SlowReader raised in its place.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._num_written = 0
        self._waits_since_s: float | None = None
        self._has_given_up = False
        # One timer for many writes: it looks when the oldest of them could have waited too long.
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if kind is asyncio.CancelledError and self._has_given_up:
            self._task.uncancel()
            raise SlowReader(
                f"the client took nothing for {self._timeout_s:g} s; {self._num_written} messages"
                " were sent before that, and the rest of the answer is given up"
            )

    async def write(self, context: grpc.aio.ServicerContext, response: Any) -> None:
        self._waits_since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        if self._num_written == 0:
            # A message of its own: gRPC would send it once more, and fail, with the status of a
            # call whose first message is stuck. It waits as well, where others on the same
            # connection have filled it.
            await context.send_initial_metadata(())
        await context.write(response)
        self._waits_since_s = None
        self._num_written += 1

    def _look(self) -> None:
        self._timer = None
        if self._waits_since_s is None:
            return
        left_s = self._waits_since_s + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._has_given_up = True
            self._task.cancel()
