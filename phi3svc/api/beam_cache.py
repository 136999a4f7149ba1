"""Keys and values of beams: what they have in common is there once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from phi3svc.config.model import Phi3Config
from phi3svc.model.kv_cache import KVCache
from phi3svc.ops import PAGE_SIZE


def max_pages(prompt_len: int, length: int, num_beams: int) -> int:
    """Pages that the beams of one prompt hold at most, at `length` tokens each.

    They all begin with the prompt, whose full pages they share.
    """
    num_shared = prompt_len // PAGE_SIZE
    return num_shared + num_beams * (-(-length // PAGE_SIZE) - num_shared)


@dataclass(frozen=True)
class Write:
    """A table of pages, to be written at the positions start .. end - 1, and known up to there."""

    table: list[int]
    start: int
    end: int


class BeamCache:
    """A KV cache whose pages belong to any number of tables.

    A table lists the page ids of one beam's positions 0..15, 16..31, ... A page is copied when a
    table is to write to it that others hold too.
    """

    def __init__(
        self, config: Phi3Config, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """dtype: the model's, or int8."""
        self.kv = KVCache(config, num_pages, dtype, device)
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_holders = [0] * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def fork(self, table: Sequence[int]) -> list[int]:
        """Another table with the same pages."""
        for page in table:
            self._num_holders[page] += 1
        return list(table)

    def free(self, table: Sequence[int]) -> None:
        """Forget a table."""
        for page in table:
            self._num_holders[page] -= 1
            if self._num_holders[page] == 0:
                self._free.append(page)

    def open(self, writes: Sequence[Write]) -> None:
        """Let tables be written to: add pages, and copy those that it would not do to share.

        Raises IndexError if there are too few pages.
        """
        for write in writes:
            if write.start % PAGE_SIZE:
                last = write.start // PAGE_SIZE
                page = write.table[last]
                if self._num_holders[page] > 1:
                    self._num_holders[page] -= 1
                    write.table[last] = self._take()
                    self.kv.copy_pages(self.kv, [page], [write.table[last]])
            while len(write.table) * PAGE_SIZE < write.end:
                write.table.append(self._take())

    def _take(self) -> int:
        page = self._free.pop()
        self._num_holders[page] = 1
        return page
