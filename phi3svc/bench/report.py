"""The figures for people: two tables, without colours or lines when nobody looks at a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from phi3svc.bench.run import Run
from phi3svc.bench.statistics import Summary

LABELS = {
    "first_token": "time to first token",
    "between_tokens": "between tokens",
    "between_messages": "between messages",
    "per_output_token": "per output token",
    "total": "total",
    "send_delay": "sent late by",
}
COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
PIPED_WIDTH = 120


def print_report(run: Run, console: Console) -> None:
    """Rates, then latencies in milliseconds, then errors by status."""
    results = run.results
    console.print(run.title(), style="bold", soft_wrap=True)
    console.print(run.subtitle(), soft_wrap=True)
    console.print()
    per_message = results.num_tokens / max(1, results.num_messages)
    rates = Table.grid(padding=(0, 2))
    rates.add_column()
    rates.add_column(justify="right")
    rates.add_row("requests", f"{results.requests_per_s:,.2f}", "per second")
    rates.add_row("tokens", f"{results.tokens_per_s:,.1f}", "per second")
    rates.add_row(
        "completed",
        f"{results.num_completed:,}",
        f"of {results.num_requests:,}, with {results.num_tokens:,} tokens "
        f"in {results.duration_s:.2f} s, {per_message:.2f} per message",
    )
    console.print(rates)
    console.print()
    console.print(_latencies(run, is_plain=not console.is_terminal))
    for status, error in results.errors.items():
        text = f"{error.count} × {status}: {error.message}"
        console.print(text, style="red", markup=False, soft_wrap=True)


def console_for_report() -> Console:
    """Of standard output; piped, it never cuts a line short at a terminal's width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def _latencies(run: Run, *, is_plain: bool) -> Table:
    table = Table(box=None if is_plain else box.ROUNDED, pad_edge=not is_plain)
    table.add_column("milliseconds")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, summary in run.results.summaries().items():
        # In a closed loop a request is due when it is sent.
        if summary is not None and (name != "send_delay" or run.workload.is_open_loop):
            table.add_row(LABELS[name], *_cells(summary))
    return table


def _cells(summary: Summary) -> list[str]:
    return [f"{getattr(summary, name) * 1000:,.2f}" for name in COLUMNS]
