"""Turns examples into padded batches whose rows all use the same LongRoPE factors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

IGNORED = -100
"""Label of a position that the loss skips."""


@dataclass(frozen=True)
class Encoded:
    """One training row. labels: one per token, `IGNORED` where nothing is learned."""

    token_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Batch:
    """token_ids, labels: i64 [B, S], right padded."""

    token_ids: torch.Tensor
    labels: torch.Tensor


def _pad(rows: Sequence[list[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Right padding needs no mask under causal attention; padded positions carry no label."""
    return Batch(
        _pad([row.token_ids for row in rows], pad_id), _pad([row.labels for row in rows], IGNORED)
    )


def bucketed_batches(
    rows: Iterator[Encoded],
    *,
    pad_id: int,
    original_len: int,
    tokens_per_batch: int,
    rng: random.Random,
    pool_size: int = 2048,
) -> Iterator[Batch]:
    """Endless batches of about `tokens_per_batch` padded tokens and rows of similar length.

    transformers picks short or long factors by the longest row of a batch, so no batch straddles
    `original_len`: every row trains with the factors that it will be served with.
    """
    while True:
        pool = sorted((next(rows) for _ in range(pool_size)), key=lambda row: len(row.token_ids))
        batches: list[list[Encoded]] = [[]]
        for row in pool:
            group = batches[-1]
            crosses = bool(group) and (
                len(group[-1].token_ids) <= original_len < len(row.token_ids)
            )
            if crosses or (len(group) + 1) * len(row.token_ids) > tokens_per_batch:
                batches.append(group := [])
            group.append(row)
        batches = [group for group in batches if group]
        rng.shuffle(batches)
        for group in batches:
            yield collate(group, pad_id)
