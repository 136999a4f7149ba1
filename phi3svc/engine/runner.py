"""One model and its KV memory: computes what a step's batch asks for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.batch import OutputRows, to_model_input
from phi3svc.engine.chunks import (
    Batch,
    Chunk,
    ChunkOutput,
    Generated,
    PromptLogprobs,
    SampledToken,
    verified,
)
from phi3svc.engine.decode_loop import DecodeLoop, DecodeRun, is_decoding, is_plain
from phi3svc.engine.events import TopLogprobs
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sampler import sample
from phi3svc.engine.token_logprobs import token_logprobs
from phi3svc.model.inputs import ModelInput, int32_tensor
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import MAX_LOGIT_ROWS, Network
from phi3svc.model.passes import Recorded

_PROMPT_LOGITS_ROWS = 64
"""Rows of prompt logits at a time: those of a whole chunk could need gigabytes."""

_MAX_LOOPS = 32


@dataclass(frozen=True)
class Computed:
    """A step that has been computed, and how long it took."""

    batch: Batch
    outputs: list[ChunkOutput]
    seconds: float

    def wait(self) -> list[ChunkOutput]:
        return self.outputs


class Runner:
    """Runs batches on a network. KV page i is the scheduler's block i.

    One step at a time, but another can be queued behind it: `begin_behind`.
    """

    def __init__(self, network: Network, kv: KVCache) -> None:
        self._network = network
        self._kv = kv
        self._is_on_cuda = network.backend == "cuda"
        self._loops: Recorded[DecodeLoop] = Recorded(_MAX_LOOPS)
        network.forgets(self._loops)

    def begin(self, batch: Batch, *, is_followed: bool) -> DecodeRun | Computed:
        """Start a step; if another may follow it at once, and it can, in the background.

        On CUDA also if none does: a loop's step is one launch, from inputs to tokens.
        """
        if (is_followed or (self._is_on_cuda and is_decoding(batch))) and is_plain(batch):
            inputs = self._pack(batch)
            if inputs.is_small:
                return self._begin_loop(batch, inputs)
        started_s = time.perf_counter()
        outputs = self.run(batch)
        return Computed(batch, outputs, time.perf_counter() - started_s)

    @torch.inference_mode()
    def begin_behind(self, before: DecodeRun | Computed, batch: Batch) -> DecodeRun | None:
        """Queue a step of the sequences that are in the one before; None if that can't be."""
        self._network.prepare()
        if isinstance(before, Computed):
            return None
        if self._loops.find(before.loop.shape) is not before.loop:  # forgotten, see `Network`
            return None
        num_positions = max(chunk.end for chunk in batch.chunks)
        num_pages = -(-num_positions // ops.PAGE_SIZE)
        has_room = num_positions <= self._network.rope.num_positions
        if not has_room or num_pages > before.loop.shape.table_len:
            return None
        return before.loop.begin_behind(before, batch)

    @torch.inference_mode()
    def _begin_loop(self, batch: Batch, inputs: ModelInput) -> DecodeRun:
        self._network.prepare(inputs.num_positions)
        loop = self._loops.find(inputs.shape)
        if loop is None:
            loop = DecodeLoop(self._network, self._kv, inputs.shape)
            self._loops.keep(inputs.shape, loop)
        return loop.begin(batch, inputs)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[ChunkOutput]:
        """One output per chunk: its next tokens, the scores of its rows, or None."""
        h = self._network.forward(self._pack(batch), self._kv)
        rows = OutputRows.of(batch)
        outputs: list[ChunkOutput] = [None] * len(batch.chunks)
        if rows.token_chunks:
            chunks = [batch.chunks[index] for index in rows.token_chunks]
            tokens = self._tokens(h, rows.token_rows, chunks)
            for index, next_tokens in zip(rows.token_chunks, tokens, strict=True):
                outputs[index] = Generated(next_tokens)
        if rows.prompt_chunks:
            chunks = [batch.chunks[index] for index in rows.prompt_chunks]
            prompts = self._prompt_logprobs(h, rows.prompt_rows, chunks)
            for index, prompt in zip(rows.prompt_chunks, prompts, strict=True):
                output = outputs[index]
                outputs[index] = Generated(
                    output.tokens if isinstance(output, Generated) else [], prompt
                )
        if rows.score_chunks:
            scores = self._network.scores(h, int32_tensor(rows.score_rows)).tolist()
            num_rows = [len(batch.chunks[index].wanted_rows) for index in rows.score_chunks]
            for index, part in zip(rows.score_chunks, _parts(num_rows), strict=True):
                outputs[index] = scores[part]
        return outputs

    def _pack(self, batch: Batch) -> ModelInput:
        # On CUDA a new shape costs a pass, call by call, before its graph is there.
        return to_model_input(batch, ops.PAGE_SIZE, is_rounded=self._is_on_cuda)

    def _tokens(self, h: Tensor, rows: list[int], chunks: list[Chunk]) -> list[list[SampledToken]]:
        """For each chunk the tokens that come next: right guesses, and one behind them."""
        tokens: list[list[SampledToken]] = []
        start = 0
        for portion in _portions(chunks):
            end = start + sum(len(chunk.wanted_rows) for chunk in portion)
            tokens += self._sampled(h, rows[start:end], portion)
            start = end
        return tokens

    def _sampled(self, h: Tensor, rows: list[int], chunks: list[Chunk]) -> list[list[SampledToken]]:
        logits = self._network.logits(h, int32_tensor(rows))
        workspace = self._network.sampling_workspace(len(rows))
        token_ids, logprobs = sample(logits, chunks, workspace)
        top: list[TopLogprobs | None] = [None] * len(rows)
        nums_top = [_num_top(chunk) for chunk in chunks for _ in chunk.wanted_rows]
        wanting = [row for row, num in enumerate(nums_top) if num]
        if wanting:
            own = torch.tensor(wanting)
            _, found_top = token_logprobs(
                logits[own], token_ids[own], [nums_top[row] for row in wanting]
            )
            for row, best in zip(wanting, found_top, strict=True):
                top[row] = best
        sampled = list(map(SampledToken, token_ids.tolist(), logprobs.tolist(), top))
        parts = _parts([len(chunk.wanted_rows) for chunk in chunks])
        return [
            verified(sampled[part], chunk.draft) for chunk, part in zip(chunks, parts, strict=True)
        ]

    def _prompt_logprobs(
        self, h: Tensor, rows: list[int], chunks: list[Chunk]
    ) -> list[PromptLogprobs]:
        """For each chunk those of the prompt tokens behind its prompt rows."""
        next_ids = [
            chunk.sequence.token_ids[position + 1]
            for chunk in chunks
            for position in chunk.prompt_rows
        ]
        nums_top = [_num_top(chunk) for chunk in chunks for _ in chunk.prompt_rows]
        logprobs: list[float] = []
        top: list[TopLogprobs | None] = []
        for start in range(0, len(rows), _PROMPT_LOGITS_ROWS):
            part = slice(start, start + _PROMPT_LOGITS_ROWS)
            logits = self._network.logits(h, int32_tensor(rows[part]))
            of_next, best = token_logprobs(logits, int32_tensor(next_ids[part]), nums_top[part])
            logprobs += of_next
            top += best
        return [
            PromptLogprobs(logprobs[part], [row for row in top[part] if row is not None])
            for part in _parts([len(chunk.prompt_rows) for chunk in chunks])
        ]


def _portions(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """Those that want at most `MAX_LOGIT_ROWS` rows together, none of which wants so many alone."""
    portion: list[Chunk] = []
    num_rows = 0
    for chunk in chunks:
        if num_rows + len(chunk.wanted_rows) > MAX_LOGIT_ROWS:
            yield portion
            portion, num_rows = [], 0
        portion.append(chunk)
        num_rows += len(chunk.wanted_rows)
    yield portion


def _parts(lengths: list[int]) -> list[slice]:
    """Where each of some runs of rows lies, one behind the other."""
    ends = list(accumulate(lengths))
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _num_top(chunk: Chunk) -> int:
    """How many of the likeliest tokens its request wants to know in each place."""
    request = chunk.sequence.request
    return request.num_top_logprobs if isinstance(request, GenerateRequest) else 0
