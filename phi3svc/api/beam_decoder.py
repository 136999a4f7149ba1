"""The next token's logits for every beam of every prompt, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from phi3svc.api.beam_cache import BeamCache, Write
from phi3svc.model.inputs import Chunk, ModelInput, int32_tensor
from phi3svc.model.network import Network

_STEP_TOKENS = 2048
"""Tokens of one forward pass at most; it bounds the workspaces."""


@dataclass
class Beams:
    """The beams of one prompt. All have the same length, and with it the same factor set.

    answers: the tokens of each behind the prompt. tables: its pages. The first `num_computed`
    tokens of each are in its pages, computed with `rope_set`; at the beginning one beam, with none.
    """

    prompt_ids: Sequence[int]
    rope_set: int
    answers: list[list[int]] = field(default_factory=lambda: [[]])
    tables: list[list[int]] = field(default_factory=lambda: [[]])
    num_computed: int = 0

    @property
    def length(self) -> int:
        """Tokens of each beam."""
        return len(self.prompt_ids) + len(self.answers[0])

    def token_ids(self, beam: int, start: int, end: int) -> list[int]:
        """Tokens start .. end - 1 of a beam."""
        prompt_len = len(self.prompt_ids)
        of_answer = self.answers[beam][max(start - prompt_len, 0) : max(end - prompt_len, 0)]
        return [*self.prompt_ids[start:end], *of_answer]

    def common_length(self) -> int:
        """How many tokens all beams begin with alike."""
        length = len(self.prompt_ids)
        for column in zip(*self.answers, strict=True):
            if len(set(column)) > 1:
                break
            length += 1
        return length


@dataclass(frozen=True)
class _Part:
    """Tokens to compute: those of `write`, of the sequence that has its table."""

    token_ids: list[int]
    write: Write
    rope_set: int


class BeamDecoder:
    """Drives a network over the beams of several prompts. Not for two threads at once."""

    def __init__(self, network: Network, cache: BeamCache) -> None:
        self._network = network
        self._cache = cache

    def begin(self, prompt_ids: Sequence[int]) -> Beams:
        """One beam, with nothing computed."""
        return Beams(prompt_ids, self._network.config.rope_set(len(prompt_ids)))

    def logits(self, rows: Sequence[Beams]) -> list[Tensor]:
        """Of the token behind each beam: float32 [beams, V] for each prompt, new tensors."""
        self._recompute([row for row in rows if self._rope_set(row) != row.rope_set])
        parts = [
            self._part(row, beam, row.num_computed, row.length)
            for row in rows
            for beam in range(len(row.tables))
        ]
        logits = torch.cat(list(self._last_logits(parts)))
        for row in rows:
            row.num_computed = row.length
        return list(torch.split(logits, [len(row.tables) for row in rows]))

    def go_on(self, row: Beams, parents: Sequence[int], answers: list[list[int]]) -> None:
        """Beam i goes on from what beam parents[i] has computed, and has the answer answers[i]."""
        tables = [self._cache.fork(row.tables[parent]) for parent in parents]
        self.free(row)
        row.tables, row.answers = tables, answers

    def free(self, row: Beams) -> None:
        """Give the pages of a prompt's beams back."""
        for table in row.tables:
            self._cache.free(table)

    def _rope_set(self, row: Beams) -> int:
        return self._network.config.rope_set(row.length)

    def _recompute(self, rows: Sequence[Beams]) -> None:
        """Compute again, with the factors for their present length, what beams begin with alike."""
        parts = []
        for row in rows:
            self.free(row)
            row.rope_set = self._rope_set(row)
            # Not the last token: it is what logits come from.
            row.num_computed = min(row.common_length(), row.length - 1)
            num_beams, row.tables = len(row.tables), [[]]
            if row.num_computed:
                parts.append(self._part(row, 0, 0, row.num_computed))
            row.tables = [row.tables[0]] * num_beams
        for _ in self._forwards(parts):
            pass
        for row in rows:
            row.tables = [row.tables[0], *map(self._cache.fork, row.tables[1:])]

    def _part(self, row: Beams, beam: int, start: int, end: int) -> _Part:
        write = Write(row.tables[beam], start, end)
        return _Part(row.token_ids(beam, start, end), write, row.rope_set)

    def _last_logits(self, parts: Sequence[_Part]) -> Iterator[Tensor]:
        """Logits of the last token of each part, [some of them, V] at a time, on the CPU."""
        for h, last_rows in self._forwards(parts):
            if last_rows:
                yield self._network.logits(h, int32_tensor(last_rows)).to("cpu", copy=True)

    def _forwards(self, parts: Sequence[_Part]) -> Iterator[tuple[Tensor, list[int]]]:
        """Compute parts, in as few passes as may be: h of each pass, and the rows where parts end.

        Parts end in their order. h is good until the next pass.
        """
        self._cache.open([part.write for part in parts])
        chunks: list[Chunk] = []
        last_rows: list[int] = []
        num_tokens = 0
        for part in parts:
            done = 0
            while done < len(part.token_ids):
                some = part.token_ids[done : done + _STEP_TOKENS - num_tokens]
                start = part.write.start + done
                chunks.append(Chunk(some, start, part.rope_set, part.write.table))
                done += len(some)
                num_tokens += len(some)
                if done == len(part.token_ids):
                    last_rows.append(num_tokens - 1)
                if num_tokens == _STEP_TOKENS:
                    yield self._network.forward(ModelInput.pack(chunks), self._cache.kv), last_rows
                    chunks, last_rows, num_tokens = [], [], 0
        if chunks:
            yield self._network.forward(ModelInput.pack(chunks), self._cache.kv), last_rows
