"""A batch as its rows: the real tokens of each, without padding, checked before anything runs.

A row is a sequence of its own. Which columns of it are real, `attention_mask` says; the others are
taken off, at either end or within, so that they are keys of no token and a row's result is, bit for
bit, what it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.errors import InvalidRequest

EMBEDDED = -1
"""Stands for the id of a token that was given as an embedding."""


@dataclass(frozen=True)
class Past:
    """What a cache holds of one row: where its last token stands; (-1, -1) where it has none."""

    last_column: int
    last_position: int


@dataclass(frozen=True)
class NewTokens:
    """The real tokens of one row among the new columns, at least one.

    columns: theirs, counted from the first new one; token_ids: all `EMBEDDED` with embeddings,
    float32 [n, E]; positions: what rotates them.
    """

    row_idx: int
    columns: list[int]
    token_ids: list[int]
    positions: list[int]
    embeddings: Tensor | None


@dataclass(frozen=True)
class Batch:
    """A call's new columns. mask: bool [B, S], the real ones; rows: those that have any."""

    mask: Tensor
    rows: list[NewTokens]

    @property
    def shape(self) -> tuple[int, int]:
        """B and S."""
        return self.mask.shape[0], self.mask.shape[1]


def batch_shape(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, hidden_size: int
) -> tuple[int, int]:
    """B and S. Raises InvalidRequest unless exactly one of both is given, and is one such batch."""
    if (input_ids is None) == (inputs_embeds is None):
        raise InvalidRequest.of("input_ids", "give exactly one of input_ids and inputs_embeds")
    if input_ids is not None:
        if not isinstance(input_ids, Tensor):
            raise InvalidRequest.of(
                "input_ids", f"is a {type(input_ids).__name__}; expected a tensor"
            )
        if not _is_integer(input_ids) or input_ids.dim() != 2 or not input_ids.numel():
            raise InvalidRequest.of(
                "input_ids", f"{input_ids.dtype} {list(input_ids.shape)}; expected integers [B, S]"
            )
        return input_ids.shape[0], input_ids.shape[1]
    assert inputs_embeds is not None
    shape = list(inputs_embeds.shape)
    fits = len(shape) == 3 and shape[2] == hidden_size and inputs_embeds.numel()
    if not fits or not inputs_embeds.is_floating_point():
        raise InvalidRequest.of(
            "inputs_embeds",
            f"{inputs_embeds.dtype} {shape}; expected floating-point [B, S, {hidden_size}]",
        )
    return shape[0], shape[1]


def read_batch(
    config: Phi3Config,
    shape: tuple[int, int],
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past_mask: Tensor,
    past: Sequence[Past],
) -> Batch:
    """The rows of a call. shape: its `batch_shape`.

    attention_mask: [B, past + S], not 0 for real tokens; None says that all new ones are. past_mask
    (bool [B, past]) and past: what the cache holds, nothing of which a mask may contradict.
    position_ids: [B, S] or [1, S]. Without them positions count columns from the row's first real
    one, or go on from the row's past. Raises InvalidRequest.
    """
    mask = _new_mask(attention_mask, past_mask, shape)
    if position_ids is not None:
        position_ids = _positions(position_ids, mask, config.context_len)
    rows = []
    for row_idx, before in enumerate(past):
        columns = torch.nonzero(mask[row_idx]).flatten().tolist()
        if not columns:
            continue
        if position_ids is not None:
            positions = position_ids[row_idx, columns].tolist()
        elif before.last_column < 0:
            positions = [column - columns[0] for column in columns]
        else:
            shift = before.last_position - before.last_column + past_mask.shape[1]
            positions = [column + shift for column in columns]
        embeddings = None
        if input_ids is not None:
            token_ids = input_ids[row_idx, columns].tolist()
            if min(token_ids) < 0 or max(token_ids) >= config.vocab_size:
                raise InvalidRequest.of(
                    "input_ids", f"row {row_idx} has an id outside 0..{config.vocab_size - 1}"
                )
        else:
            assert inputs_embeds is not None
            token_ids = [EMBEDDED] * len(columns)
            embeddings = inputs_embeds[row_idx, columns].detach().float()
        rows.append(NewTokens(row_idx, columns, token_ids, positions, embeddings))
    return Batch(mask, rows)


def check_window(config: Phi3Config, mask: Tensor) -> None:
    """Refuse rows in which columns left out would count, or not, for what a token sees.

    That is so with a sliding window and with Phi-3-small's blocks, in a row longer than the window,
    or than the blocks that all see. mask: bool [B, columns], past and new.
    """
    window = config.sliding_window
    if config.small is not None:
        window = config.small.num_local_blocks * config.small.block_size
    if window is None or mask.shape[1] <= window:
        return
    for row_idx, row in enumerate(mask):
        columns = torch.nonzero(row).flatten()
        if len(columns) and columns[-1] - columns[0] >= max(window, len(columns)):
            raise InvalidRequest.of(
                "attention_mask",
                f"row {row_idx} has a gap and is longer than the window of {window} tokens; "
                "expected padding at its ends only",
            )


def _new_mask(attention_mask: Tensor | None, past_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    num_past = past_mask.shape[1]
    if attention_mask is None:
        return torch.ones(shape, dtype=torch.bool)
    expected = [shape[0], num_past + shape[1]]
    if not isinstance(attention_mask, Tensor) or list(attention_mask.shape) != expected:
        given = getattr(attention_mask, "shape", None)
        found = type(attention_mask).__name__ if given is None else list(given)
        past = f", the {num_past} columns of the past and the new ones" if num_past else ""
        raise InvalidRequest.of("attention_mask", f"is {found}; expected {expected}{past}")
    mask = attention_mask != 0
    for row_idx in torch.nonzero((mask[:, :num_past] != past_mask).any(dim=1)).flatten().tolist():
        raise InvalidRequest.of(
            "attention_mask",
            f"row {row_idx} differs in the past from what past_key_values was computed with",
        )
    return mask[:, num_past:]


def _positions(position_ids: Tensor, mask: Tensor, limit: int) -> Tensor:
    """[B, S]. What stands at padding is anybody's guess, and not looked at."""
    num_rows, num_columns = mask.shape
    shape = list(position_ids.shape)
    if not _is_integer(position_ids) or shape not in ([num_rows, num_columns], [1, num_columns]):
        raise InvalidRequest.of(
            "position_ids",
            f"{position_ids.dtype} {shape}; expected integers [{num_rows}, {num_columns}] "
            f"or [1, {num_columns}]",
        )
    positions = position_ids.expand(num_rows, num_columns)
    real = positions[mask]
    if len(real) and (int(real.min()) < 0 or int(real.max()) >= limit):
        raise InvalidRequest.of(
            "position_ids", f"{int(real.min())} to {int(real.max())}; expected 0 to {limit - 1}"
        )
    return positions


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
