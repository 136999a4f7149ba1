"""Shows how loading comes along: a bar on a terminal, one line per model elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from phi3svc.config.sizes import size_text
from phi3svc.engine.async_engine import LoadStatus


class LoadProgress:
    """A context manager; call it with every LoadStatus. Writes to standard error.

    Until the first one the terminal is the hub client's, which shows its own bars: rich takes
    standard error for itself, and would hold them back.
    """

    def __init__(self, verb: str = "loading") -> None:
        self._verb = verb
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn(f"{verb} {{task.description}}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to others; safe to repeat."""
        self._bars.stop()

    def __call__(self, status: LoadStatus) -> None:
        if not self._tasks:
            self._bars.start()
        if status.model not in self._tasks:
            self._tasks[status.model] = self._bars.add_task(status.model, total=status.total)
            if not self._console.is_terminal:
                text = f"{self._verb} {status.model} ({size_text(status.total)})"
                self._console.print(text, highlight=False)
        self._bars.update(self._tasks[status.model], completed=status.done, total=status.total)
