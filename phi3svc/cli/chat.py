"""Talk with a model; Ctrl-C ends an answer, and, like Ctrl-D, at the prompt the conversation."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import aclosing

from phi3svc.cli.options import add_client_options, add_sampling_options, sampling_of
from phi3svc.cli.session import connected
from phi3svc.cli.stdin import StdinLines
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
    lines = StdinLines().start()
    async with connected(args, "demo") as client:
        answering: asyncio.Task[None] | None = None

        def on_interrupt() -> None:
            if answering is not None and not answering.done():
                answering.cancel()
            else:
                print(flush=True)
                lines.end()

        # For the whole conversation, not for each answer: taking a handler away brings back one
        # that raises in whatever code happens to run.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, on_interrupt)
        while (message := await _ask(lines)) is not None:
            if not message.strip():
                continue
            turns.append(("user", message))
            pieces: list[str] = []
            answering = asyncio.create_task(_answer(client, turns, args, pieces))
            try:
                await answering
            except InvalidRequest as error:
                # Most often the conversation has outgrown the context: say so, keep talking.
                print(f"phi3svc: {error}", file=sys.stderr)
                turns.pop()
                continue
            except asyncio.CancelledError:
                if not answering.cancelled():
                    raise
            finally:
                print(flush=True)
            turns.append(("assistant", "".join(pieces)))


async def _ask(lines: StdinLines) -> str | None:
    """The user's next line, or None when the conversation is over."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return await lines.next()


async def _answer(
    client: Client, turns: list[tuple[str, str]], args: argparse.Namespace, pieces: list[str]
) -> None:
    """Streams the answer; what has come is in `pieces`, also when it is cut short."""
    async with aclosing(client.generate(turns, **sampling_of(args))) as events:
        async for event in events:
            if isinstance(event, Delta):
                pieces.append(event.text)
                print(event.text, end="", flush=True)
