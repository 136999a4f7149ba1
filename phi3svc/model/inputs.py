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

from phi3svc import ops
from phi3svc.model.device import host_tensor
from phi3svc.ops import PAGE_SIZE

_MAX_SMALL = 1 << 18  # numbers
_TABLE_STEP = 8  # pages; lets inputs have the same shape for a while as their sequences grow
_ROUND_ROWS = (24, 32, 48, 64, 96, 128, 192, 256)


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

    They are views of one tensor, one behind the other, and alike in inputs of one `shape`.
    num_positions: one more than the largest of positions.

    On a device whose memory is not the CPU's there are two such tensors: what the host writes, and
    what ops read, which is its copy as of the last `send`.
    """

    def __init__(
        self, shape: InputShape, num_positions: int = 0, device: torch.device | None = None
    ) -> None:
        """device: of the ops that are to read it; None if it is only for others to take."""
        self.num_positions = num_positions
        t, b, m = self.shape = shape
        size = 4 * t + 2 * b + 1 + b * m
        if device is None or ops.backend(device) == "cpu":
            self._host = self.data = torch.zeros(size, dtype=torch.int32)
        else:
            self._host = host_tensor((size,), torch.int32, device)
            self.data = torch.zeros(size, dtype=torch.int32, device=device)
        self._array = self._host.numpy()
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
    def pack(cls, chunks: Sequence[Chunk], *, is_rounded: bool = False) -> ModelInput:
        """Lay out one chunk each of distinct sequences.

        is_rounded: make shapes come back more often than they do by themselves, for where telling
        of a new one takes long. Tables then grow by doubling. Where each sequence has one token,
        rows that stand for none are put behind: without a slot to write to or a key to see, what
        comes of them is NaN, and of no concern to others.
        """
        lengths = np.array([len(chunk.token_ids) for chunk in chunks], np.int32)
        starts = np.array([chunk.start for chunk in chunks], np.int32)
        query_starts = np.zeros(len(chunks) + 1, np.int32)
        np.cumsum(lengths, out=query_starts[1:])
        num_tokens = int(query_starts[-1])
        num_pages = max(len(chunk.pages) for chunk in chunks)
        table_len = -(-num_pages // _TABLE_STEP) * _TABLE_STEP
        if is_rounded:
            table_len = _TABLE_STEP << (table_len // _TABLE_STEP - 1).bit_length()
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
        num_positions = int(positions.max()) + 1
        columns = [
            list(chain.from_iterable(chunk.token_ids for chunk in chunks)),
            positions,
            np.array([chunk.rope_set for chunk in chunks])[owners],
            pages * PAGE_SIZE + places % PAGE_SIZE,
            query_starts,
            context_lens,
            block_tables.reshape(-1),
        ]
        num_empty = 0
        if is_rounded and num_tokens == len(chunks):
            num_empty = rounded_rows(num_tokens) - num_tokens
            columns = _with_empty_rows(columns, num_empty, table_len)
        shape = InputShape(num_tokens + num_empty, len(chunks) + num_empty, table_len)
        inputs = cls(shape, num_positions)
        np.concatenate(columns, out=inputs._array)
        return inputs

    def take(self, other: ModelInput) -> None:
        """Write what another of this shape holds."""
        self._host.copy_(other._host)

    def send(self, start: int = 0, end: int | None = None) -> None:
        """Have ops read what was written as numbers start .. end - 1; a call that programs record.

        What was written must stay until it is over.
        """
        if self._host is not self.data:
            ops.copy(self._host[start:end], self.data[start:end])

    def on(self, device: torch.device) -> ModelInput:
        """One that ops on a device can read, of what was written to this."""
        if ops.backend(device) == "cpu":
            return self
        sent = ModelInput(self.shape, self.num_positions, device)
        sent.data.copy_(self._host)
        return sent

    def go_on_from(self, before: ModelInput, tables: Sequence[Sequence[int]]) -> None:
        """Write what follows `before`, of the same shape, which has one token per sequence.

        That is, all but the tokens themselves. Positions are places. tables: page ids of each
        sequence; rows behind these stand for none.
        """
        t, n = self.num_tokens, len(tables)
        # By way of numpy, where a small array costs a fraction of what a small tensor does.
        self._array[t:] = before._array[t:]
        positions, _, slots = self._array[t : 4 * t].reshape(3, t)[:, :n]
        positions += 1
        slots += 1
        self._array[5 * t + 1 : 5 * t + 1 + n] += 1  # context_lens
        for row in np.flatnonzero(positions % PAGE_SIZE == 0).tolist():
            page_idx = int(positions[row]) // PAGE_SIZE
            page = tables[row][page_idx]
            self._array[6 * t + 1 + row * self.shape.table_len + page_idx] = page
            slots[row] = page * PAGE_SIZE


def rounded_rows(num_rows: int) -> int:
    """Rows of a batch that decodes, so many of which stand for sequences."""
    if num_rows <= 16:
        return num_rows
    return next((size for size in _ROUND_ROWS if size >= num_rows), -(-num_rows // 128) * 128)


def _with_empty_rows(
    columns: list[list[int] | np.ndarray], num_rows: int, table_len: int
) -> list[list[int] | np.ndarray]:
    """What `pack` lays out, with rows behind that stand for no sequence."""
    *by_token, query_starts, context_lens, block_tables = columns
    zeros = np.zeros(num_rows, np.int32)
    token_ids, positions, rope_sets, slots = (np.concatenate((c, zeros)) for c in by_token)
    slots[len(slots) - num_rows :] = -1
    first = query_starts[-1]
    return [
        token_ids,
        positions,
        rope_sets,
        slots,
        np.concatenate((query_starts, np.arange(first + 1, first + 1 + num_rows))),
        np.concatenate((context_lens, zeros)),
        np.concatenate((block_tables, np.zeros(num_rows * table_len, np.int32))),
    ]


def int32_tensor(values: list[int]) -> Tensor:
    """By way of numpy, which reads a list several times faster than torch does."""
    return torch.from_numpy(np.array(values, np.int32))
