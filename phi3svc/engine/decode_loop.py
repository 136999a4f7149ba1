"""Decoding whose next step begins by itself: `DecodeLoop` for one batch of sequences.

Where every sequence of a batch gets one token and goes on, all of the next step but these tokens is
known before: positions, slots, block tables, how to sample. So it can be queued while the step
before it runs, as a program that takes that one's tokens for its own. It ends at its first call if
one of them ends its sequence, and then the scheduler decides anew; else the extension goes from
step to step without waiting for Python, which meanwhile tells of the last one and prepares the next
but one. Nothing is computed that would not have been, so no result depends on any of this.

A CUDA device does not look at tokens to decide whether to go on. There a step that was not to be is
computed all the same and left unread: it writes where its own sequences would have had their next
keys, before whatever is queued later.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.chunks import Batch, ChunkOutput, Generated, SampledToken
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sampler import SamplingRows
from phi3svc.engine.sequence import Sequence
from phi3svc.model.device import fetched
from phi3svc.model.inputs import InputShape, ModelInput, int32_tensor
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network

_MAX_END_IDS = 16


@dataclass(frozen=True)
class _Half:
    """What every other step uses, so that it can be prepared while the one before runs.

    end_ids: int32 [16], tokens that end a sequence, -1 for none. drawn: int32 [n], the tokens that
    were drawn, which the other half has for its inputs; logprobs: float32 [n], theirs. Both are in
    the CPU's memory.
    """

    inputs: ModelInput
    end_ids: Tensor
    drawn: Tensor
    logprobs: Tensor
    program: ops.Program


@dataclass(frozen=True)
class DecodeRun:
    """A step on its way."""

    batch: Batch
    loop: DecodeLoop
    half: int
    run: ops.Run

    def wait(self) -> list[ChunkOutput] | None:
        """One token for each chunk; None if it was not to be: see the module."""
        if self.loop.has_ended or not self.run.wait():
            return None
        return self.loop.outputs(self.half, len(self.batch.chunks))

    @property
    def seconds(self) -> float:
        """How long it took, once waited for."""
        return self.run.seconds


class DecodeLoop:
    """Steps of one token each for some sequences, in buffers of one shape.

    There may be fewer sequences than rows.
    has_ended: whether a step has drawn a token that ends a sequence, so that what is queued behind
    it was not to be, where the device does not find out by itself.
    """

    def __init__(self, network: Network, kv: KVCache, shape: InputShape) -> None:
        num_rows, device = shape.num_sequences, network.device
        self.has_ended = False
        self._is_on_device = network.backend == "cuda"
        self.shape = shape
        # Weak: a loop outlives what it was last used for.
        self._sequences: list[ref[Sequence]] = []
        self._stop_ids: set[int] = set()
        self._end_ids = torch.full((_MAX_END_IDS,), -1, dtype=torch.int32)
        self._settings = SamplingRows.off(num_rows, device)
        self._rows = torch.arange(num_rows, dtype=torch.int32, device=device)
        inputs = [ModelInput(shape, device=device) for _ in range(2)]
        self._halves = [
            self._half(network, kv, own, other)
            for own, other in zip(inputs, reversed(inputs), strict=True)
        ]

    def _half(
        self, network: Network, kv: KVCache, inputs: ModelInput, following: ModelInput
    ) -> _Half:
        num_rows = self.shape.num_sequences
        end_ids = torch.full((_MAX_END_IDS,), -1, dtype=torch.int32)
        logprobs = torch.empty(num_rows, device=network.device)
        program = ops.Program()
        with program:
            if not self._is_on_device:
                ops.end_on(inputs.token_ids, end_ids)
            inputs.send(num_rows)  # all but the tokens
            logits = network.logits(network.compute(inputs, kv), self._rows)
            drawn = following.token_ids
            self._settings.sample(logits, inputs.context_lens, drawn, logprobs)
            return _Half(inputs, end_ids, fetched(drawn), fetched(logprobs), program)

    def begin(self, batch: Batch, inputs: ModelInput) -> DecodeRun:
        """Start a step whose tokens are known; no other may be on its way, but for ones left."""
        self._take([chunk.sequence for chunk in batch.chunks])
        self.has_ended = False
        half = self._halves[0]
        half.program.wait()
        half.inputs.take(inputs)
        half.inputs.send(0, self.shape.num_sequences)
        half.end_ids.fill_(-1)
        return DecodeRun(batch, self, 0, half.program.start())

    def begin_behind(self, before: DecodeRun, batch: Batch) -> DecodeRun:
        """Queue the next step of the same sequences, for the tokens that the one before draws."""
        index = 1 - before.half
        half = self._halves[index]
        tables = [chunk.sequence.block_table for chunk in batch.chunks]
        half.program.wait()
        half.inputs.go_on_from(self._halves[before.half].inputs, tables)
        half.end_ids.copy_(self._end_ids)
        return DecodeRun(batch, self, index, half.program.start(before.run))

    def outputs(self, half: int, num_sequences: int) -> list[ChunkOutput]:
        """What the last run of a half has found."""
        token_ids = self._halves[half].drawn[:num_sequences].tolist()
        logprobs = self._halves[half].logprobs[:num_sequences].tolist()
        if self._is_on_device:
            self.has_ended = min(token_ids) < 0 or not self._stop_ids.isdisjoint(token_ids)
        return [Generated([token]) for token in map(SampledToken, token_ids, logprobs)]

    def _take(self, sequences: list[Sequence]) -> None:
        owners = [ref(sequence) for sequence in sequences]
        if owners == self._sequences:
            return
        self._sequences = owners
        self._settings.fill(sequences)
        self._stop_ids = _stop_ids(sequences)
        self._end_ids.fill_(-1)
        self._end_ids[: len(self._stop_ids)] = int32_tensor(sorted(self._stop_ids))


def is_decoding(batch: Batch) -> bool:
    """Whether each chunk is its sequence's last token, and what comes next is all that is asked."""
    return all(
        chunk.num_tokens == 1 and len(chunk.wanted_rows) == 1 and not chunk.prompt_rows
        for chunk in batch.chunks
    )


def is_plain(batch: Batch) -> bool:
    """Whether a loop can sample for these sequences: nothing depends on tokens drawn before."""
    sequences = [chunk.sequence for chunk in batch.chunks]
    return all(map(_is_plain, sequences)) and len(_stop_ids(sequences)) <= _MAX_END_IDS


def _is_plain(sequence: Sequence) -> bool:
    request = sequence.request
    return (
        isinstance(request, GenerateRequest)
        and sequence.token_counts is None
        and not request.sampling.logit_bias
        and not request.num_top_logprobs
        and sequence.num_generated >= request.min_new_tokens
    )


def _stop_ids(sequences: list[Sequence]) -> set[int]:
    stop_ids: set[int] = set()
    for sequence in sequences:
        assert isinstance(sequence.request, GenerateRequest)
        stop_ids.update(sequence.request.stop_token_ids)
    return stop_ids
