"""A priority queue from which anything can be taken out."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
Key = tuple[Any, ...]

_MIN_ENTRIES = 16


class RemovableHeap(Generic[Item]):
    """Items by key, the smallest first; of equal keys, the one pushed first.

    All operations take logarithmic time, on average over many; memory follows the items held.
    """

    def __init__(self) -> None:
        # What is removed stays here as a dead entry until it comes up, or until most are dead.
        self._entries: list[tuple[Key, int, Item]] = []
        self._live: dict[Item, int] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._live)

    def push(self, item: Item, key: Key) -> None:
        """Add an item that is not in the heap."""
        number = self._live[item] = next(self._numbers)
        heapq.heappush(self._entries, (key, number, item))

    def discard(self, item: Item) -> None:
        """Take an item out, if it is there."""
        if self._live.pop(item, None) is None:
            return
        if len(self._entries) > _MIN_ENTRIES + 2 * len(self._live):
            self._entries = [entry for entry in self._entries if self._is_live(entry)]
            heapq.heapify(self._entries)

    def first(self) -> tuple[Key, Item] | None:
        """The smallest key and its item, or None."""
        while self._entries and not self._is_live(self._entries[0]):
            heapq.heappop(self._entries)
        if not self._entries:
            return None
        key, _, item = self._entries[0]
        return key, item

    def _is_live(self, entry: tuple[Key, int, Item]) -> bool:
        _, number, item = entry
        return self._live.get(item) == number
