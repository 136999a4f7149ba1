"""A server for the length of a run, in a process of its own as in production.

Inside the client's process, both would share one event loop, and the figures would be of neither.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from phi3svc.errors import ConfigError, EngineFailed

STOP_S = 10.0
CONFIG_ERROR_CODE = 2


@asynccontextmanager
async def private_server(flags: Sequence[str]) -> AsyncIterator[str]:
    """Runs `phi3svc serve` with the flags; yields its address when it is ready.

    Raises ConfigError or EngineFailed with the server's own line when it does not start. What it
    says on standard error goes to ours.
    """
    with tempfile.TemporaryDirectory(prefix="phi3svc-") as folder:
        address = f"unix:{Path(folder) / 'server.sock'}"
        # A session of its own: Ctrl-C is for the client, which then stops the server.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "phi3svc", "serve", "--listen", address, *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = _ErrorLines(process.stderr)
        relay = asyncio.create_task(errors.relay())
        try:
            if not await process.stdout.readline():
                await process.wait()
                await relay
                kind = ConfigError if process.returncode == CONFIG_ERROR_CODE else EngineFailed
                raise kind(errors.last or "the server ended before it was ready")
            yield address
        finally:
            await _stop(process)
            relay.cancel()


class _ErrorLines:
    """Passes on what the server says; its last words before an exit are for an error message."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self.last = ""

    async def relay(self) -> None:
        async for raw in self._stream:
            line = raw.decode(errors="replace").rstrip("\n")
            if line.startswith("phi3svc: "):
                self.last = line.removeprefix("phi3svc: ").removeprefix("error: ")
            else:
                print(line, file=sys.stderr, flush=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
