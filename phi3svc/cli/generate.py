"""Continue a prompt, or answer one chat message, and stream it to standard output."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import aclosing
from typing import Any

from rich.console import Console

from phi3svc.cli.answers import Answer, Tokens
from phi3svc.cli.options import add_client_options, add_sampling_options, check_uint, sampling_of
from phi3svc.cli.session import connected
from phi3svc.cli.stdin import check_text, read_stdin
from phi3svc.cli.token_table import token_table
from phi3svc.engine.events import Completed, Delta, Finished, PromptLogprobs, Started
from phi3svc.errors import ConfigError
from phi3svc.service.client import Client

Prompt = str | list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the text; - reads standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a user's chat message")
    parser.add_argument(
        "--system", metavar="TEXT", help="a system message before it; implies --chat"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, when done")
    add_sampling_options(parser)
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--n", type=int, default=1, help="how many, 1 to 64; give a --temperature, or all are alike"
    )
    group.add_argument(
        "--top-logprobs",
        type=int,
        default=0,
        metavar="K",
        help="show each token's probability and the K likeliest in its place, at most 20",
    )
    group.add_argument(
        "--prompt-logprobs", action="store_true", help="show how likely the prompt's tokens were"
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    check_uint("n", args.n, 1 << 32)
    check_uint("top-logprobs", args.top_logprobs, 1 << 32)
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


async def _stream(client: Client, prompt: Prompt, args: argparse.Namespace) -> None:
    """A single answer is printed as it comes; of several, each as soon as it is its turn."""
    answers: dict[int, Answer] = {}
    is_single = args.n == 1
    of_prompt = Tokens()
    record: dict[str, object] = {}
    num_shown = 0
    async with aclosing(client.generate(prompt, **_options(args))) as events:
        async for event in events:
            match event:
                case Started():
                    record |= {"model": event.model, "seed": event.seed}
                case PromptLogprobs():
                    of_prompt.logprobs += event.logprobs
                    of_prompt.top += event.top
                case Delta() | Finished():
                    answers.setdefault(event.index, Answer(event.index)).take(event)
                case Completed():
                    record["prompt_token_count"] = event.prompt_token_count
                    record["generated_token_count"] = event.completion_token_count
            if args.json:
                continue
            if is_single:
                if isinstance(event, Delta):
                    print(event.text, end="", flush=True)
                continue
            while num_shown in answers and answers[num_shown].end is not None:
                num_shown += 1
                print(f"[{num_shown}] {answers[num_shown - 1].text}", flush=True)
    if args.prompt_logprobs:
        of_prompt.token_ids = await client.tokenize(prompt, model=str(record["model"]))
    if args.json:
        if args.prompt_logprobs:
            record["prompt"] = of_prompt.record()
        # The fields of a single answer stand at the top; several are a list.
        records = [answers[index].record() for index in sorted(answers)]
        print(json.dumps(record | (records[0] if is_single else {"answers": records})), flush=True)
        return
    if is_single:
        print(flush=True)
    tables = []
    if args.prompt_logprobs:
        of_prompt.token_ids.pop(0)  # which has none
        tables.append(("prompt", of_prompt))
    if args.top_logprobs > 0:
        for index in sorted(answers):
            title = "answer" if is_single else f"answer {index + 1}"
            tables.append((title, answers[index].tokens))
    await _show_tables(client, str(record["model"]), tables)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    wants_tables = args.top_logprobs > 0
    return sampling_of(args) | {
        "n": args.n,
        "wants_token_ids": args.json or wants_tables,
        "wants_logprobs": wants_tables,
        "top_logprobs": args.top_logprobs,
        "wants_prompt_logprobs": args.prompt_logprobs,
    }


async def _show_tables(client: Client, model: str, tables: list[tuple[str, Tokens]]) -> None:
    """Titles and tokens, with the tokens' texts fetched from the server."""
    ids = {token_id for _, tokens in tables for token_id in tokens.all_ids()}
    texts = await client.token_texts(ids, model=model)
    console = Console(highlight=False)
    for title, tokens in tables:
        console.print()
        console.print(token_table(title, tokens, texts))
