"""A model that is a formula: checks what the scheduler promises while it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import (
    Batch,
    Chunk,
    ChunkOutput,
    Generated,
    SampledToken,
    verified,
)
from phi3svc.engine.sequence import OutputKind, Sequence

STOP_ID = 7


def next_token(token_ids: list[int], rope_set: int, index: int = 0) -> int:
    """Depends on every token and on the factor set, so a lost or stale one shows."""
    total = sum((i + 1) * t for i, t in enumerate(token_ids)) * 31 + 17 * rope_set + 5 * index
    return total % 97


Content = tuple[str, int, tuple[int, ...]]
"""What keys and values depend on: who may share them, the factor set, and the tokens so far."""


@dataclass
class FakeRunner:
    """KV memory that remembers what was written into each slot."""

    blocks: BlockManager
    slots: dict[int, Content] = field(default_factory=dict)

    def run(self, batch: Batch) -> list[ChunkOutput]:
        assert len({chunk.sequence for chunk in batch.chunks}) == len(batch.chunks)
        for chunk in batch.chunks:
            assert chunk.start == chunk.sequence.num_computed < chunk.end
            assert not chunk.draft or chunk.end == chunk.sequence.num_tokens
            for position in range(chunk.start, chunk.start + chunk.num_tokens):
                block_id = chunk.sequence.block_table[position // self.blocks.block_size]
                assert self.blocks.num_holders(block_id) == 1, "a shared block is written"
                assert not self.blocks.is_cached(block_id), "a kept block is written"
                self.slots[self._slot(chunk.sequence, position)] = self._content(chunk, position)
        return [self._output(chunk) for chunk in batch.chunks]

    def _output(self, chunk: Chunk) -> ChunkOutput:
        sequence = chunk.sequence
        for position in range(chunk.end):
            slot = self.slots.get(self._slot(sequence, position))
            assert slot == self._content(chunk, position), "stale or foreign keys and values"
        if not chunk.wanted_rows:
            return None
        if sequence.output_kind is not OutputKind.NEXT_TOKEN:
            return [[float(position)] for position in chunk.wanted_rows]
        token_ids = [*sequence.token_ids[: chunk.end], *chunk.draft]
        sampled = []
        for position in chunk.wanted_rows:
            known = token_ids[: position + 1]
            token_id = next_token(known, sequence.rope_set, sequence.index)
            sampled.append(SampledToken(token_id, -0.5))
        return Generated(verified(sampled, chunk.draft))

    def _slot(self, sequence: Sequence, position: int) -> int:
        size = self.blocks.block_size
        return sequence.block_table[position // size] * size + position % size

    def _content(self, chunk: Chunk, position: int) -> Content:
        sequence = chunk.sequence
        request = sequence.request
        sharers = request.cache_salt or f"tenant {request.tenant}"
        token_ids = (*sequence.token_ids[: chunk.end], *chunk.draft)
        return sharers, sequence.rope_set, token_ids[: position + 1]
