"""What the scheduler asks of a step, and what it gets back.

What there is one of per sequence and step is a msgspec Struct: they are made several times faster
than frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from msgspec import Struct

from phi3svc.engine.events import TopLogprobs
from phi3svc.engine.sequence import Sequence


class Chunk(Struct, frozen=True):
    """Tokens `start .. end` of a sequence and guesses of what follows, computed in one step.

    wanted_rows: positions whose rows have a token or scores that are wanted. prompt_rows: positions
    whose rows tell the log probability of the prompt token behind. draft: guessed tokens behind all
    that are known, only where `end` is the sequence's; each has a wanted row.
    """

    sequence: Sequence
    start: int
    end: int
    wanted_rows: range
    prompt_rows: range = range(0)
    draft: Ids[int] = ()

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Chunk:
        """The next `num_tokens` of a sequence."""
        start = sequence.num_computed
        end = start + num_tokens
        wanted_rows = sequence.wanted_rows(start, end)
        return cls(sequence, start, end, wanted_rows, sequence.prompt_rows(start, end))

    @classmethod
    def guessed(cls, sequence: Sequence, draft: list[int]) -> Chunk:
        """The last token of a sequence that decodes, and what may follow it."""
        start = sequence.num_computed
        end = start + 1
        return cls(sequence, start, end, range(start, end + len(draft)), draft=draft)

    @property
    def num_tokens(self) -> int:
        """Rows that the chunk takes in its step."""
        return self.end - self.start + len(self.draft)

    @property
    def token_ids(self) -> list[int]:
        """The tokens to compute."""
        return [*self.sequence.token_ids[self.start : self.end], *self.draft]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes, in the order of its rows.

    expired: of each request found past its deadline, and ended, one sequence.
    """

    chunks: list[Chunk]
    expired: list[Sequence] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


class SampledToken(Struct, frozen=True):
    """A chosen token and its log probability; token_id -1 when the logits had no largest value.

    top: the likeliest tokens in its place, if the request wants them.
    """

    token_id: int
    logprob: float
    top: TopLogprobs | None = None


class PromptLogprobs(Struct, frozen=True):
    """Of the prompt tokens behind a chunk's prompt rows. top: as many, or none if not wanted."""

    logprobs: list[float]
    top: list[TopLogprobs]


class Generated(Struct, frozen=True):
    """What a step found for a chunk of a sequence that generates.

    tokens: none where the chunk does not reach the sequence's end; else the next one, preceded by
    as many guessed ones as were right.
    """

    tokens: list[SampledToken]
    prompt: PromptLogprobs | None = None


ScoreRows = list[list[float]]
"""[rows of a chunk][labels]"""

ChunkOutput = Generated | ScoreRows | None
"""What a step found for one chunk; None if nothing was wanted of it."""


def verified(sampled: list[SampledToken], draft: Ids[int]) -> list[SampledToken]:
    """Of the tokens drawn behind each row, those drawn behind what has proved right."""
    num_right = 0
    while num_right < len(draft) and sampled[num_right].token_id == draft[num_right]:
        num_right += 1
    return sampled[: num_right + 1]
