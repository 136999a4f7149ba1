"""How the run comes along: a bar with the current rates on a terminal, nothing elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from phi3svc.bench.record import RequestRecord


class RunProgress:
    """A context manager; call it with every ended request. Writes to standard error."""

    def __init__(self, num_requests: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            refresh_per_second=4,  # drawing takes time from the same cores
        )
        self._task = self._bar.add_task("requests", total=num_requests, rate="warming up")
        self._num_tokens = 0
        self._num_failed = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, record: RequestRecord) -> None:
        self._num_tokens += record.num_tokens
        self._num_failed += not record.is_ok
        rate = f"{self._num_tokens / max(record.end_s, 1e-9):,.0f} tokens/s"
        if self._num_failed:
            rate += f", {self._num_failed} failed"
        self._bar.update(self._task, advance=1, rate=rate)
