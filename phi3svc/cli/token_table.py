"""A table of tokens: how likely each one was, and what else might have come."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from phi3svc.cli.answers import Tokens
from phi3svc.engine.events import TopLogprobs


def token_table(title: str, tokens: Tokens, texts: Mapping[int, str]) -> Table:
    """A row per token. texts: of every token that the table shows, by id."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("token")
    table.add_column("id", justify="right")
    table.add_column("log p", justify="right")
    table.add_column("p", justify="right")
    if tokens.top:
        table.add_column("likeliest", overflow="fold")
    for i, (token_id, logprob) in enumerate(zip(tokens.token_ids, tokens.logprobs, strict=True)):
        row = [
            Text(_quoted(texts[token_id])),
            Text(str(token_id)),
            Text(f"{logprob:.4f}"),
            Text(_percent(logprob)),
        ]
        if tokens.top:
            row.append(_alternatives(tokens.top[i], token_id, texts))
        table.add_row(*row)
    return table


def _alternatives(top: TopLogprobs, chosen_id: int, texts: Mapping[int, str]) -> Text:
    """The most likely tokens in one place; the one that came stands out."""
    line = Text()
    for token_id, logprob in zip(top.token_ids, top.logprobs, strict=True):
        style = "bold green" if token_id == chosen_id else ""
        line.append(_quoted(texts[token_id]), style)
        line.append(f" {_percent(logprob)}  ", "dim")
    return line


def _quoted(text: str) -> str:
    """In quotes, spaces and line ends visible."""
    return repr(text)


def _percent(logprob: float) -> str:
    return f"{100 * math.exp(logprob):.1f}%"
