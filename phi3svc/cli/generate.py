"""Continue a prompt, or answer one chat message, and stream it to standard output."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import aclosing

from phi3svc.cli.options import add_client_options, add_sampling_options, sampling_of
from phi3svc.cli.session import connected
from phi3svc.cli.stdin import check_text, read_stdin
from phi3svc.engine.events import Completed, Delta, Finished, Started
from phi3svc.errors import ConfigError
from phi3svc.service.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the text; - reads standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a user's chat message")
    parser.add_argument(
        "--system", metavar="TEXT", help="a system message before it; implies --chat"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, when done")
    add_sampling_options(parser)
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    prompt = read_stdin() if args.prompt == "-" else check_text("prompt", args.prompt)
    if not prompt and not args.chat:
        raise ConfigError("prompt: is empty")
    asyncio.run(_generate(args, prompt))
    return 0


async def _generate(args: argparse.Namespace, prompt: str) -> None:
    turns = [("system", args.system)] if args.system else []
    turns.append(("user", prompt))
    async with connected(args, "demo") as client:
        await _stream(client, turns if args.chat or args.system else prompt, args)


async def _stream(
    client: Client, prompt: str | list[tuple[str, str]], args: argparse.Namespace
) -> None:
    text = []
    record: dict[str, object] = {}
    stream = client.generate(prompt, wants_token_ids=args.json, **sampling_of(args))
    async with aclosing(stream) as events:
        async for event in events:
            match event:
                case Started():
                    record |= {"model": event.model, "seed": event.seed, "token_ids": []}
                case Delta():
                    text.append(event.text)
                    record["token_ids"] = [*record["token_ids"], *event.token_ids]  # type: ignore[misc]
                    if not args.json:
                        print(event.text, end="", flush=True)
                case Finished():
                    record |= {"finish_reason": event.reason, "digest": event.digest}
                case Completed():
                    record["prompt_token_count"] = event.prompt_token_count
                    record["generated_token_count"] = event.completion_token_count
    print(json.dumps(record | {"text": "".join(text)}) if args.json else "", flush=True)
