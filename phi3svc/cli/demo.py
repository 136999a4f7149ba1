"""Show the whole service at work on the embedded models: chat, labels, entities, over gRPC."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import aclosing

from rich.console import Console

from phi3svc.cli.classify import show_entities, show_labels
from phi3svc.cli.session import running_server
from phi3svc.config.server import ServerConfig
from phi3svc.engine.events import Completed, Delta, Started
from phi3svc.service.client import Client

QUESTIONS = ("Hello! Who are you?", "Tell me a story about a fox.")
REVIEWS = ["The soup was excellent and the waiter was friendly.", "The room was not clean."]
SENTENCE = "Maria Lopez of Nordwind Systems flew to Oslo on 3 May 2024."
SEED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="ADDR", help="default: any port")


def run(args: argparse.Namespace) -> int:
    asyncio.run(_demo(args.listen))
    return 0


async def _demo(listen: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    start = time.perf_counter()
    async with running_server(ServerConfig(listen=(listen,))) as addresses:
        elapsed = time.perf_counter() - start
        console.print(f"listening on {addresses[0]}  (ready after {elapsed:.1f} s)", style="green")
        async with Client.connect(addresses[0]) as client:
            await _show_chat(client, console)
            console.print("\n[bold]Classify[/] · sentiment of whole texts\n")
            for text, labels in zip(REVIEWS, await client.classify(REVIEWS), strict=True):
                show_labels(console, text, labels)
            console.print("\n[bold]ClassifyTokens[/] · entities, with their characters\n")
            show_entities(console, SENTENCE, (await client.classify_tokens([SENTENCE]))[0])
        console.print()
    console.print("server stopped", style="green")


async def _show_chat(client: Client, console: Console) -> None:
    """A conversation of two questions, streamed as it is generated."""
    turns: list[tuple[str, str]] = []
    console.print("\n[bold]Generate[/] · a conversation, streamed token by token\n")
    for question in QUESTIONS:
        turns.append(("user", question))
        console.print(f"[cyan]user[/]       {question}")
        console.print("[cyan]assistant[/]  ", end="")
        answer = ""
        async with aclosing(client.generate(turns, seed=SEED)) as events:
            async for event in events:
                match event:
                    case Started():
                        seed = event.seed
                    case Delta():
                        answer += event.text
                        console.print(event.text, end="", markup=False)
                    case Completed():
                        rate = event.completion_token_count / max(event.total_s, 1e-9)
                        console.print(
                            f"\n           [dim]{event.completion_token_count} tokens, "
                            f"{rate:.0f} per second, first after "
                            f"{event.first_token_s * 1000:.0f} ms, seed {seed}[/]"
                        )
        turns.append(("assistant", answer))
