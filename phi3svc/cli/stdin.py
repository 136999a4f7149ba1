"""Standard input as text: whole, or by lines whose wait can be given up."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Self, TextIO

from phi3svc.errors import ConfigError

_READ_BYTES = 1 << 16


def read_stdin() -> str:
    """All of standard input. Raises ConfigError when it is closed or not UTF-8."""
    try:
        return _stdin_file().buffer.read().decode("utf-8")
    except UnicodeError:
        raise ConfigError("standard input: is not UTF-8") from None


def check_text(name: str, text: str) -> str:
    """A text of the command line, which may hold bytes that are no UTF-8: a ConfigError here."""
    try:
        text.encode("utf-8")
    except UnicodeError:
        raise ConfigError(f"{name}: is not UTF-8") from None
    return text


class StdinLines:
    """Lines of standard input, read by a thread of its own.

    The thread may sleep in its read for ever: nobody waits for it, and it holds no lock that the
    interpreter's end would need, as sys.stdin's own would be.
    """

    def __init__(self) -> None:
        self._fd = _stdin_file().fileno()
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    def start(self) -> Self:
        threading.Thread(target=self._read, daemon=True).start()
        return self

    async def next(self) -> str | None:
        """The next line without its end, or None after the last, or after `end`."""
        return await self._lines.get()

    def end(self) -> None:
        """Let whoever waits for a line, or waits next, have the end."""
        self._lines.put_nowait(None)

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._fd, _READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._put(line.decode("utf-8", "replace"))
        if rest:
            self._put(rest.decode("utf-8", "replace"))
        self._put(None)

    def _put(self, line: str | None) -> None:
        # The loop may be closed by the time that a line comes: nobody wants it then.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


def _stdin_file() -> TextIO:
    if sys.stdin is None:
        raise ConfigError("standard input: is closed")
    return sys.stdin
