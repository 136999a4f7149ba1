"""Decoding whose next step begins by itself: `DecodeLoop` for one batch of sequences.

Where every sequence of a batch gets one token and goes on, all of the next step but these tokens is
known before: positions, slots, block tables, how to sample. So it can be queued while the step
before it runs, as a program that takes that one's tokens for its own. It ends at its first call if
one of them ends its sequence, and then the scheduler decides anew; else the extension goes from
step to step without waiting for Python, which meanwhile tells of the last one and prepares the next
but one. Nothing is computed that would not have been, so no result depends on any of this.
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
from phi3svc.model.inputs import InputShape, ModelInput, int32_tensor
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network

_MAX_END_IDS = 16


@dataclass(frozen=True)
class _Half:
    """What every other step uses, so that it can be prepared while the one before runs.

    positions: int32 [n], of the tokens to draw. end_ids: int32 [16], tokens that end a sequence, -1
    for none. logprobs: float32 [n], of the tokens drawn, which the other half has for its inputs.
    """

    inputs: ModelInput
    positions: Tensor
    end_ids: Tensor
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
        return self.loop.outputs(self.half) if self.run.wait() else None

    @property
    def seconds(self) -> float:
        """How long it took, once waited for."""
        return self.run.seconds


class DecodeLoop:
    """Steps of one token each for some sequences, in buffers of one shape.

    Recorded with the network's rope table as it was then.
    """

    def __init__(self, network: Network, kv: KVCache, shape: InputShape) -> None:
        num_rows = shape.num_sequences
        self.shape = shape
        self.rope_table = network.rope.table
        # Weak: a loop outlives what it was last used for.
        self._sequences: list[ref[Sequence]] = []
        self._end_ids = torch.full((_MAX_END_IDS,), -1, dtype=torch.int32)
        self._settings = SamplingRows.off(num_rows)
        self._halves = [
            _Half(
                ModelInput(shape),
                positions=torch.zeros(num_rows, dtype=torch.int32),
                end_ids=torch.full((_MAX_END_IDS,), -1, dtype=torch.int32),
                logprobs=torch.empty(num_rows),
                program=ops.Program(),
            )
            for _ in range(2)
        ]
        rows = torch.arange(num_rows, dtype=torch.int32)
        for half, other in zip(self._halves, reversed(self._halves), strict=True):
            with half.program:
                ops.end_on(half.inputs.token_ids, half.end_ids)
                logits = network.logits(network.compute(half.inputs, kv), rows)
                drawn = other.inputs.token_ids
                self._settings.sample(logits, half.positions, drawn, half.logprobs)

    def begin(self, batch: Batch, inputs: ModelInput) -> DecodeRun:
        """Start a step whose tokens are known; no other may be on its way."""
        self._take([chunk.sequence for chunk in batch.chunks])
        half = self._halves[0]
        half.inputs.data.copy_(inputs.data)
        half.positions.copy_(inputs.context_lens)
        half.end_ids.fill_(-1)
        return DecodeRun(batch, self, 0, half.program.start())

    def begin_behind(self, before: DecodeRun, batch: Batch) -> DecodeRun:
        """Queue the next step of the same sequences, for the tokens that the one before draws."""
        index = 1 - before.half
        half = self._halves[index]
        tables = [chunk.sequence.block_table for chunk in batch.chunks]
        half.inputs.go_on_from(self._halves[before.half].inputs, tables)
        half.positions.copy_(half.inputs.context_lens)
        half.end_ids.copy_(self._end_ids)
        return DecodeRun(batch, self, index, half.program.start(before.run))

    def outputs(self, half: int) -> list[ChunkOutput]:
        """What the last run of a half has found."""
        token_ids = self._halves[1 - half].inputs.token_ids.tolist()
        logprobs = self._halves[half].logprobs.tolist()
        return [Generated([token]) for token in map(SampledToken, token_ids, logprobs)]

    def _take(self, sequences: list[Sequence]) -> None:
        owners = [ref(sequence) for sequence in sequences]
        if owners == self._sequences:
            return
        self._sequences = owners
        self._settings.fill(sequences)
        stop_ids = sorted(_stop_ids(sequences))
        self._end_ids.fill_(-1)
        self._end_ids[: len(stop_ids)] = int32_tensor(stop_ids)


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
