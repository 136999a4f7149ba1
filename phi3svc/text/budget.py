"""Bounds the work of a chat template, whatever the template and the conversation are."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Undefined

MAX_INT = 1 << 63
UNITS_PER_STEP = 8


class TooMuchWork(TemplateRuntimeError):
    """The budget of a render is spent."""


class Budget:
    """Units of work left: about one per character made or value visited, more per step.

    Every operation by which a template can make text, lists or steps spends from it, before it
    does the work. What a template can hold in memory is bounded by it too.
    """

    def __init__(self, units: int) -> None:
        self._left = units

    def spend(self, units: int) -> None:
        """Raise TooMuchWork when less than this is left."""
        self._left -= units
        if self._left < 0:
            raise TooMuchWork("it takes too much work")

    def iterate(self, values: Iterable[Any]) -> Iterator[Any]:
        """The same values, each of them a step."""
        for value in values:
            self.spend(UNITS_PER_STEP)
            yield value

    def measure(self, value: object) -> int:
        """Characters and values in `value`, each counted as often as it can be reached.

        Spends as much. A list that holds another twice counts it twice, as printing it would.
        Raises SecurityError for what is no plain data.
        """
        total = 0
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                size = 1 + len(item)
            elif isinstance(item, dict):
                size = 1 + len(item)
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                size = 1 + len(item)
                stack += item
            elif item is None or isinstance(item, bool | int | float | Undefined):
                size = 1
            else:
                raise SecurityError(f"a {type(item).__name__} is no plain data")
            self.spend(size)
            total += size
        return total

    def compare(self, *values: object) -> None:
        """Spend what comparing these values with others, or hashing them, may take."""
        check_numbers(*values)
        for value in values:
            if isinstance(value, str | range):
                self.spend(len(value))
            elif isinstance(value, dict | list | tuple):
                self.measure(value)
            elif isinstance(value, KeysView | ItemsView | ValuesView):
                self.measure(list(value))

    def search(self, values: object) -> None:
        """Spend what looking for something in `values` may take."""
        if not isinstance(values, dict | KeysView):  # which know by its hash
            self.compare(values)

    def text(self, value: object) -> str:
        """`str(value)`, as printing it gives; only for plain data."""
        if isinstance(value, str):
            self.spend(len(value))
            return str(value)
        self.measure(value)
        text = str(value)
        self.spend(len(text))
        return text


def check_numbers(*values: object) -> None:
    """Raise SecurityError for integers that would grow without bound."""
    for value in values:
        if isinstance(value, int) and abs(value) >= MAX_INT:
            raise SecurityError("an integer has more than 64 bits")
