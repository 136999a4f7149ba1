"""A model that is a formula: checks what the scheduler promises while it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, ChunkOutput
from phi3svc.engine.sequence import OutputKind, SampledToken, Sequence

STOP_ID = 7


def next_token(token_ids: list[int], rope_set: int) -> int:
    """Depends on every token and on the factor set, so a lost or stale one shows."""
    return (sum((i + 1) * t for i, t in enumerate(token_ids)) * 31 + 17 * rope_set) % 97


Content = tuple[str, int, tuple[int, ...]]
"""What keys and values depend on: who may share them, the factor set, and the tokens so far."""


@dataclass
class FakeRunner:
    """KV memory that remembers what was written into each slot."""

    blocks: BlockManager
    slots: dict[int, Content] = field(default_factory=dict)

    def run(self, batch: Batch) -> list[ChunkOutput]:
        assert len({c.sequence.request_id for c in batch.chunks}) == len(batch.chunks)
        for chunk in batch.chunks:
            assert chunk.start == chunk.sequence.num_computed < chunk.end
            for position in range(chunk.start, chunk.end):
                block_id = chunk.sequence.block_table[position // self.blocks.block_size]
                assert self.blocks.num_holders(block_id) == 1, "a shared block is written"
                assert not self.blocks.is_cached(block_id), "a kept block is written"
                self.slots[self._slot(chunk.sequence, position)] = self._content(
                    chunk.sequence, position
                )
        return [
            self._output(chunk.sequence, chunk.end, chunk.wanted_rows) for chunk in batch.chunks
        ]

    def _output(self, sequence: Sequence, end: int, wanted_rows: range) -> ChunkOutput:
        for position in range(end):
            slot = self.slots.get(self._slot(sequence, position))
            assert slot == self._content(sequence, position), "stale or foreign keys and values"
        if not wanted_rows:
            return None
        if sequence.output_kind is OutputKind.NEXT_TOKEN:
            return SampledToken(next_token(sequence.token_ids[:end], sequence.rope_set), -0.5)
        return [[float(position)] for position in wanted_rows]

    def _slot(self, sequence: Sequence, position: int) -> int:
        size = self.blocks.block_size
        return sequence.block_table[position // size] * size + position % size

    def _content(self, sequence: Sequence, position: int) -> Content:
        request = sequence.request
        sharers = request.cache_salt or f"tenant {request.tenant}"
        return sharers, sequence.rope_set, tuple(sequence.token_ids[: position + 1])
