"""From what `generate` is given to prompts without padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.errors import InvalidRequest


@dataclass(frozen=True)
class Prompts:
    """columns: int64 [B, S], as the caller gave them; rows: the tokens of each that count."""

    columns: Tensor
    rows: list[list[int]]

    @property
    def width(self) -> int:
        return self.columns.shape[1]


def read_prompts(
    inputs: Tensor | Mapping[str, Any] | None,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    settings: GenerationConfig,
    vocab_size: int,
) -> Prompts:
    """inputs, input_ids: [B, S] integers, one or neither; or a tokenizer's whole answer in inputs.

    attention_mask: [B, S], of any dtype. Where it is 0 a row has no token, in front, behind or
    between: positions count those that are left, and what they are answered is what they are
    answered alone. Without one, it is made from pad_token_id as in transformers: unless that is
    also a stop token. Without anything, the prompt is the bos token. Raises InvalidRequest.
    """
    if isinstance(inputs, Mapping):
        if "input_ids" not in inputs:
            raise InvalidRequest.of("inputs", "a mapping without input_ids")
        attention_mask = inputs.get("attention_mask") if attention_mask is None else attention_mask
        inputs = inputs["input_ids"]
    if inputs is not None and input_ids is not None:
        raise InvalidRequest.of("inputs", "given together with input_ids; expected one of them")
    columns = inputs if inputs is not None else input_ids
    if columns is None:
        if settings.bos_token_id is None:
            raise InvalidRequest.of("bos_token_id", "not set; needed where no input_ids are given")
        columns = torch.tensor([[settings.bos_token_id]])
    columns = _matrix("input_ids", columns)
    if columns.is_floating_point() or columns.is_complex():
        raise InvalidRequest.of("input_ids", f"{columns.dtype}, not integers")
    columns = columns.to(torch.int64)
    if columns.numel() == 0:
        raise InvalidRequest.of("input_ids", f"shape {list(columns.shape)}, not at least [1, 1]")
    if attention_mask is None:
        is_real = _inferred_mask(columns, settings)
    else:
        is_real = _matrix("attention_mask", attention_mask) != 0
        if is_real.shape != columns.shape:
            shapes = f"shape {list(is_real.shape)}, not {list(columns.shape)} as input_ids"
            raise InvalidRequest.of("attention_mask", shapes)
    rows = [row[mask].tolist() for row, mask in zip(columns, is_real, strict=True)]
    for i, row in enumerate(rows):
        if not row:
            raise InvalidRequest.of("attention_mask", f"row {i} has nothing but padding")
        if not 0 <= min(row) <= max(row) < vocab_size:
            bad = max(row) if min(row) >= 0 else min(row)
            raise InvalidRequest.of("input_ids", f"{bad} in row {i}, not in 0..{vocab_size - 1}")
    return Prompts(columns, rows)


def _matrix(field: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 2:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InvalidRequest.of(field, f"{found}, not a tensor [B, S]")
    return value.to("cpu")


def _inferred_mask(columns: Tensor, settings: GenerationConfig) -> Tensor:
    pad = settings.padding_id
    if pad is None or pad in settings.eos_token_ids:
        return torch.ones_like(columns, dtype=torch.bool)
    return columns != pad
