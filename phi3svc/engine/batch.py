"""From the scheduler's batch to the tensors a step needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phi3svc.engine.scheduler import Batch
from phi3svc.engine.sequence import OutputKind
from phi3svc.model.inputs import ModelInput


def to_model_input(batch: Batch, block_size: int) -> ModelInput:
    """Pack a batch: T rows for the tokens of all chunks, B entries for the chunks themselves."""
    token_ids: list[int] = []
    positions: list[int] = []
    rope_sets: list[int] = []
    slots: list[int] = []
    query_starts = [0]
    context_lens = []
    max_num_blocks = max(-(-chunk.end // block_size) for chunk in batch.chunks)
    block_tables = np.zeros((len(batch.chunks), max_num_blocks), np.int32)
    for index, chunk in enumerate(batch.chunks):
        sequence = chunk.sequence
        chunk_positions = range(chunk.start, chunk.end)
        block_table = sequence.block_table
        token_ids += sequence.token_ids[chunk.start : chunk.end]
        positions += chunk_positions
        rope_sets += [sequence.rope_set] * chunk.num_tokens
        slots += [
            block_table[p // block_size] * block_size + p % block_size for p in chunk_positions
        ]
        query_starts.append(len(token_ids))
        context_lens.append(chunk.end)
        num_blocks = min(len(block_table), max_num_blocks)
        block_tables[index, :num_blocks] = np.frombuffer(block_table, np.int32, num_blocks)
    return ModelInput(
        token_ids=int32_tensor(token_ids),
        positions=int32_tensor(positions),
        rope_sets=int32_tensor(rope_sets),
        slots=int32_tensor(slots),
        query_starts=int32_tensor(query_starts),
        context_lens=int32_tensor(context_lens),
        block_tables=torch.from_numpy(block_tables),
    )


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Which rows of a step have outputs, and whose they are.

    token_chunks, score_chunks: indices into the batch's chunks. token_rows: one row for each of
    token_chunks. score_rows: as many as score_chunks ask for, in their order.
    """

    token_chunks: list[int]
    token_rows: list[int]
    score_chunks: list[int]
    score_rows: list[int]

    @classmethod
    def of(cls, batch: Batch) -> OutputRows:
        rows = cls([], [], [], [])
        first_row = 0
        for index, chunk in enumerate(batch.chunks):
            wanted_rows = [first_row + position - chunk.start for position in chunk.wanted_rows]
            first_row += chunk.num_tokens
            if not wanted_rows:
                continue
            if chunk.sequence.output_kind is OutputKind.NEXT_TOKEN:
                rows.token_chunks.append(index)
                rows.token_rows += wanted_rows
            else:
                rows.score_chunks.append(index)
                rows.score_rows += wanted_rows
        return rows


def int32_tensor(values: list[int]) -> Tensor:
    """By way of numpy, which reads a list several times faster than torch does."""
    return torch.from_numpy(np.array(values, np.int32))
