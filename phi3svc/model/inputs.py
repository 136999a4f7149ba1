"""What one forward pass needs to know about the sequences in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phi3svc.ops import PAGE_SIZE


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one sequence, to be computed in one step.

    token_ids: the tokens at positions start, start + 1, ...; rope_set: `Phi3Config.rope_set` of the
    *whole* sequence; pages: page ids of positions 0..15, 16..31, ..., up to the chunk's end.
    """

    token_ids: Sequence[int]
    start: int
    rope_set: int
    pages: Sequence[int]


@dataclass(frozen=True)
class ModelInput:
    """T tokens of B sequences, packed without padding, in the order of the sequences.

    token_ids, positions, rope_sets, slots (page · P + offset): int32 [T]; query_starts: int32
    [B+1], where each sequence's tokens begin, and T; context_lens: int32 [B], tokens of each
    sequence with these; block_tables: int32 [B, M], page ids, rows padded with anything.
    """

    token_ids: Tensor
    positions: Tensor
    rope_sets: Tensor
    slots: Tensor
    query_starts: Tensor
    context_lens: Tensor
    block_tables: Tensor

    @property
    def num_tokens(self) -> int:
        return self.token_ids.shape[0]

    @classmethod
    def pack(cls, chunks: Sequence[Chunk]) -> ModelInput:
        """Lay out one chunk each of distinct sequences."""
        token_ids: list[int] = []
        positions: list[int] = []
        rope_sets: list[int] = []
        slots: list[int] = []
        query_starts = [0]
        for chunk in chunks:
            span = range(chunk.start, chunk.start + len(chunk.token_ids))
            token_ids += chunk.token_ids
            positions += span
            rope_sets += [chunk.rope_set] * len(span)
            slots += [chunk.pages[p // PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE for p in span]
            query_starts.append(len(token_ids))
        num_pages = max(len(chunk.pages) for chunk in chunks)
        block_tables = np.zeros((len(chunks), num_pages), np.int32)
        for row, chunk in zip(block_tables, chunks, strict=True):
            row[: len(chunk.pages)] = chunk.pages
        return cls(
            token_ids=int32_tensor(token_ids),
            positions=int32_tensor(positions),
            rope_sets=int32_tensor(rope_sets),
            slots=int32_tensor(slots),
            query_starts=int32_tensor(query_starts),
            context_lens=int32_tensor([chunk.start + len(chunk.token_ids) for chunk in chunks]),
            block_tables=torch.from_numpy(block_tables),
        )


def int32_tensor(values: list[int]) -> Tensor:
    """By way of numpy, which reads a list several times faster than torch does."""
    return torch.from_numpy(np.array(values, np.int32))
