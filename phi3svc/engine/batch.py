"""From the scheduler's batch to the tensors a step needs."""

from __future__ import annotations

from dataclasses import dataclass

from phi3svc.engine.chunks import Batch
from phi3svc.engine.sequence import OutputKind
from phi3svc.model import inputs
from phi3svc.model.inputs import ModelInput


def to_model_input(batch: Batch, block_size: int, *, is_rounded: bool = False) -> ModelInput:
    """The batch's chunks as the model wants them; row order is the batch's.

    is_rounded: see `ModelInput.pack`; rows that stand for none are behind the batch's.
    """
    return ModelInput.pack(
        [
            inputs.Chunk(
                chunk.token_ids,
                chunk.start,
                chunk.sequence.rope_set,
                chunk.sequence.block_table[: -(-(chunk.start + chunk.num_tokens) // block_size)],
            )
            for chunk in batch.chunks
        ],
        is_rounded=is_rounded,
    )


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Which rows of a step have outputs, and whose they are.

    token_chunks, prompt_chunks, score_chunks: indices into the batch's chunks. token_rows,
    prompt_rows, score_rows: as many for each of them as it has such rows, in their order.
    """

    token_chunks: list[int]
    token_rows: list[int]
    prompt_chunks: list[int]
    prompt_rows: list[int]
    score_chunks: list[int]
    score_rows: list[int]

    @classmethod
    def of(cls, batch: Batch) -> OutputRows:
        rows = cls([], [], [], [], [], [])
        first_row = 0
        for index, chunk in enumerate(batch.chunks):
            shift = first_row - chunk.start
            first_row += chunk.num_tokens
            if chunk.prompt_rows:
                rows.prompt_chunks.append(index)
                rows.prompt_rows.extend(shift + position for position in chunk.prompt_rows)
            if not chunk.wanted_rows:
                continue
            if chunk.sequence.output_kind is OutputKind.NEXT_TOKEN:
                rows.token_chunks.append(index)
                rows.token_rows.extend(shift + position for position in chunk.wanted_rows)
            else:
                rows.score_chunks.append(index)
                rows.score_rows.extend(shift + position for position in chunk.wanted_rows)
        return rows
