"""Batches with padding, and what transformers makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.model.checkpoints import PAD_TOKEN_ID


def pad(
    rows: Sequence[Sequence[int]], side: str = "left", width: int | None = None
) -> tuple[Tensor, Tensor]:
    """ids and mask, int64 [B, S], S the longest row's length or `width`."""
    width = width or max(map(len, rows))
    ids = torch.full((len(rows), width), PAD_TOKEN_ID)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, at] = torch.tensor(row, dtype=torch.long)
        mask[i, at] = 1
    return ids, mask


@torch.no_grad()
def theirs(model: Any, *args: Any, **kwargs: Any) -> Any:
    """What a transformers model returns, without gradients."""
    return model(*args, **kwargs)
