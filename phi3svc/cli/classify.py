"""Label texts as a whole, or (--tokens) find the entities in them."""

from __future__ import annotations

import argparse
import asyncio
import json

from rich.console import Console
from rich.table import Table

from phi3svc.cli.options import add_client_options
from phi3svc.cli.session import connected
from phi3svc.cli.stdin import check_text, read_stdin
from phi3svc.errors import ConfigError
from phi3svc.service.client_messages import LabelScore, TokenLabels
from phi3svc.text.entities import STRATEGIES

BAR_CHARS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", help="the texts; - reads one per line from stdin")
    parser.add_argument("--tokens", action="store_true", help="label tokens and find entities")
    parser.add_argument(
        "--aggregation",
        choices=tuple(STRATEGIES),
        help="how labels of tokens make entities (implies --tokens; default: simple)",
    )
    parser.add_argument("--name", default="", help="which of the server's models to ask")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    texts = args.texts
    if texts == ["-"]:
        texts = [line for line in read_stdin().split("\n") if line.strip()]
    if not texts or not all(texts):
        raise ConfigError("texts: one is empty")
    for text in texts:
        check_text("texts", text)
    asyncio.run(_classify(args, texts))
    return 0


async def _classify(args: argparse.Namespace, texts: list[str]) -> None:
    wants_tokens = args.tokens or args.aggregation is not None
    default = "demo-entities" if wants_tokens else "demo-sentiment"
    console = Console(highlight=False)
    async with connected(args, default) as client:
        if wants_tokens:
            results = await client.classify_tokens(
                texts, model=args.name, aggregation_strategy=args.aggregation or "simple"
            )
            for text, found in zip(texts, results, strict=True):
                _print_json(text, entities=_plain(found)) if args.json else show_entities(
                    console, text, found
                )
            return
        for text, labels in zip(texts, await client.classify(texts, model=args.name), strict=True):
            scores = {item.label: item.score for item in labels}
            _print_json(text, labels=scores) if args.json else show_labels(console, text, labels)


def show_labels(console: Console, text: str, labels: tuple[LabelScore, ...]) -> None:
    """The text, then a bar per label, the best first."""
    console.print(f"“{text}”", style="italic", markup=False)
    table = Table.grid(padding=(0, 1))
    for item in labels:
        filled = round(max(0.0, min(1.0, item.score)) * BAR_CHARS)
        bar = "█" * filled + "░" * (BAR_CHARS - filled)
        table.add_row(f"  {item.label}", bar, f"{item.score:.3f}")
    console.print(table)


def show_entities(console: Console, text: str, found: TokenLabels) -> None:
    """The text, then a row per entity with its character range."""
    console.print(f"“{text}”", style="italic", markup=False)
    table = Table.grid(padding=(0, 2))
    for item in found.entities:
        place = f"{item.start}–{item.end}"
        table.add_row(f"  {item.label}", item.text.strip(), place, f"{item.score:.3f}")
    console.print(table if found.entities else "  no entities")


def _plain(found: TokenLabels) -> list[dict[str, object]]:
    return [
        {"label": e.label, "text": e.text, "start": e.start, "end": e.end, "score": e.score}
        for e in found.entities
    ]


def _print_json(text: str, **fields: object) -> None:
    print(json.dumps({"text": text, **fields}), flush=True)
