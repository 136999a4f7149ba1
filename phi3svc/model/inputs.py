"""What one forward pass needs to know about the sequences in it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phi3svc.ops import PAGE_SIZE

_MAX_SMALL = 1 << 18  # numbers
_TABLE_STEP = 8  # pages; lets inputs have the same shape for a while as their sequences grow


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one sequence, to be computed in one step.

    token_ids: the tokens at places start, start + 1, ...; rope_set: `Phi3Config.rope_set` of the
    *whole* sequence; pages: page ids of places 0..15, 16..31, ..., up to the chunk's end.
    positions: what rotates each token's queries and keys, where that is not its place.
    """

    token_ids: Sequence[int]
    start: int
    rope_set: int
    pages: Sequence[int]
    positions: Sequence[int] | None = None


class InputShape(NamedTuple):
    """T, B and M of a `ModelInput`."""

    num_tokens: int
    num_sequences: int
    table_len: int


class ModelInput:
    """T tokens of B sequences, packed without padding, in the order of the sequences.

    token_ids, positions, rope_sets, slots (page · P + offset): int32 [T]; query_starts: int32
    [B+1], where each sequence's tokens begin, and T; context_lens: int32 [B], tokens of each
    sequence with these; block_tables: int32 [B, M], page ids, rows padded with anything.

    data: all of them, one behind the other; they are views of it. Inputs of one `shape` are laid
    out alike, so copying `data` is copying an input. num_positions: one more than the largest of
    positions.
    """

    def __init__(self, shape: InputShape, num_positions: int = 0) -> None:
        self.num_positions = num_positions
        t, b, m = self.shape = shape
        self.data = torch.zeros(4 * t + 2 * b + 1 + b * m, dtype=torch.int32)
        self._array = self.data.numpy()
        parts = torch.split(self.data, [t, t, t, t, b + 1, b, b * m])
        self.token_ids, self.positions, self.rope_sets, self.slots = parts[:4]
        self.query_starts, self.context_lens = parts[4:6]
        self.block_tables = parts[6].view(b, m)

    @property
    def num_tokens(self) -> int:
        return self.shape.num_tokens

    @property
    def is_small(self) -> bool:
        """Whether some dozens of this size may be kept at hand: at most a megabyte."""
        return self.data.numel() <= _MAX_SMALL

    @classmethod
    def pack(cls, chunks: Sequence[Chunk]) -> ModelInput:
        """Lay out one chunk each of distinct sequences."""
        lengths = np.array([len(chunk.token_ids) for chunk in chunks], np.int32)
        starts = np.array([chunk.start for chunk in chunks], np.int32)
        query_starts = np.zeros(len(chunks) + 1, np.int32)
        np.cumsum(lengths, out=query_starts[1:])
        num_tokens = int(query_starts[-1])
        num_pages = max(len(chunk.pages) for chunk in chunks)
        table_len = -(-num_pages // _TABLE_STEP) * _TABLE_STEP
        rows = [array("i", chunk.pages).tobytes().ljust(4 * table_len, b"\0") for chunk in chunks]
        block_tables = np.frombuffer(b"".join(rows), np.int32).reshape(-1, table_len)

        owners = np.repeat(np.arange(len(chunks)), lengths)
        places = np.arange(num_tokens, dtype=np.int32) + (starts - query_starts[:-1])[owners]
        pages = block_tables[owners, places // PAGE_SIZE]
        context_lens = starts + lengths
        positions = places.copy()
        for chunk, first in zip(chunks, query_starts.tolist(), strict=False):
            if chunk.positions is not None:
                positions[first : first + len(chunk.token_ids)] = chunk.positions
        shape = InputShape(num_tokens, len(chunks), table_len)
        inputs = cls(shape, num_positions=int(positions.max()) + 1)
        np.concatenate(
            (
                list(chain.from_iterable(chunk.token_ids for chunk in chunks)),
                positions,
                np.array([chunk.rope_set for chunk in chunks])[owners],
                pages * PAGE_SIZE + places % PAGE_SIZE,
                query_starts,
                context_lens,
                block_tables.reshape(-1),
            ),
            out=inputs.data.numpy(),
        )
        return inputs

    def go_on_from(self, before: ModelInput, tables: Sequence[Sequence[int]]) -> None:
        """Make this, of the same shape, what follows `before`, which has one token per sequence.

        That is, all but the tokens themselves. Positions are places. tables: page ids of each
        sequence.
        """
        t = self.num_tokens
        # By way of numpy, where a small array costs a fraction of what a small tensor does.
        self._array[t:] = before._array[t:]
        positions, _, slots = self._array[t : 4 * t].reshape(3, t)
        positions += 1
        slots += 1
        self._array[5 * t + 1 : 6 * t + 1] += 1  # context_lens
        for row in np.flatnonzero(positions % PAGE_SIZE == 0).tolist():
            page_idx = int(positions[row]) // PAGE_SIZE
            page = tables[row][page_idx]
            self._array[6 * t + 1 + row * self.shape.table_len + page_idx] = page
            slots[row] = page * PAGE_SIZE


def int32_tensor(values: list[int]) -> Tensor:
    """By way of numpy, which reads a list several times faster than torch does."""
    return torch.from_numpy(np.array(values, np.int32))
