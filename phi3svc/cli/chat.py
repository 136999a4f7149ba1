"""Talk with a model; Ctrl-C ends an answer, Ctrl-D ends the conversation."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import aclosing

from phi3svc.cli.options import add_client_options, add_sampling_options, sampling_of
from phi3svc.cli.session import connected
from phi3svc.engine.events import Delta
from phi3svc.errors import InvalidRequest
from phi3svc.service.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    add_sampling_options(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    asyncio.run(_chat(args))
    return 0


async def _chat(args: argparse.Namespace) -> None:
    turns = [("system", args.system)] if args.system else []
    async with connected(args, "demo") as client:
        while (message := await _read_line()) is not None:
            if not message.strip():
                continue
            turns.append(("user", message))
            try:
                turns.append(("assistant", await _answer(client, turns, args)))
            except InvalidRequest as error:
                # Most often the conversation has outgrown the context: say so, keep talking.
                print(f"phi3svc: {error}", file=sys.stderr)
                turns.pop()


async def _read_line() -> str | None:
    """One line without its end, or None at the end of input; the loop goes on meanwhile."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    return line.rstrip("\n") if line else None


async def _answer(client: Client, turns: list[tuple[str, str]], args: argparse.Namespace) -> str:
    """Streams the answer; Ctrl-C cuts it short and keeps what has come."""
    pieces: list[str] = []

    async def stream() -> None:
        async with aclosing(client.generate(turns, **sampling_of(args))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    print(event.text, end="", flush=True)

    task = asyncio.create_task(stream())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        print(flush=True)
    return "".join(pieces)
