"""Prompts to generate from, and transformers to compare with."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.model.checkpoints import PAD_TOKEN_ID

ORIGINAL = 32
"""LongRoPE's original length in these tests."""


def oracle_model(path: Path) -> Any:
    return transformers.Phi3ForCausalLM.from_pretrained(path).eval()


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(f"{length} {seed}")
    return [generator.randrange(256) for _ in range(length)]


def left_padded(rows: list[list[int]], pad_id: int = PAD_TOKEN_ID) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, longest]."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad_id] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
