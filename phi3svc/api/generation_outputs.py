"""What `generate` returns with return_dict_in_generate, and the tensors in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phi3svc.api.outputs import ModelOutput


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """One token at a time. B prompts times num_return_sequences give R rows, prompt by prompt.

    sequences: int64 [R, S + steps], the prompts' columns and then the answers, filled up with
    padding. scores, logits: for each step, float32 [R, V]: what the token was chosen from, after
    and before all processors. Zeros where a row had ended; transformers has there what comes of
    feeding padding to the model.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: None = None
    hidden_states: None = None
    past_key_values: None = None


@dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Beam search with W beams for each of B prompts; R = B times num_return_sequences.

    sequences: int64 [R, S + longest answer], of each prompt the best first. sequences_scores:
    float32 [R]. scores, logits: for each step, float32 [B · W, V], of the beams then running; zeros
    where a prompt was done. beam_indices: int64 [R, longest answer], the row of `scores` that each
    token comes from, -1 behind the end.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: None = None
    hidden_states: None = None
    past_key_values: None = None


def joined(columns: Tensor, answers: Sequence[Sequence[int]], padding_id: int) -> Tensor:
    """Answers behind their prompts' columns [B, S]: int64 [R, S + longest], R a multiple of B."""
    prompts = columns.repeat_interleave(len(answers) // len(columns), dim=0)
    return torch.cat([prompts, padded(answers, padding_id)], dim=1)


def padded(rows: Sequence[Sequence[int]], padding_id: int) -> Tensor:
    """int64 [R, longest row]."""
    out = torch.full((len(rows), max(map(len, rows))), padding_id)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out


def by_step(blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """From [steps of it, rows of it, V] for each block to [rows of all, V] for each step."""
    num_steps = max(map(len, blocks))
    num_rows = sum(block.shape[1] for block in blocks)
    out = torch.zeros(num_steps, num_rows, blocks[0].shape[2])
    row = 0
    for block in blocks:
        out[: len(block), row : row + block.shape[1]] = block
        row += block.shape[1]
    return out.unbind()
