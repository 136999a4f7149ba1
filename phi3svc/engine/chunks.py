"""What the scheduler asks of a step, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field

from phi3svc.engine.sequence import SampledToken, ScoreRows, Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start .. end` of a sequence, to be computed in one step.

    wanted_rows: the tokens among them whose rows have an output that is wanted.
    """

    sequence: Sequence
    start: int
    end: int
    wanted_rows: range

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Chunk:
        """The next `num_tokens` of a sequence."""
        start = sequence.num_computed
        end = start + num_tokens
        return cls(sequence, start, end, sequence.wanted_rows(start, end))

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes, in the order of its rows.

    expired: sequences that it found past their deadline, and has ended.
    """

    chunks: list[Chunk]
    expired: list[Sequence] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


ChunkOutput = SampledToken | ScoreRows | None
"""What a step found for one chunk: its next token, its score rows, or nothing yet."""
