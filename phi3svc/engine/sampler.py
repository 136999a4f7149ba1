"""The next token of each row, with every row's own settings."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.chunks import Chunk
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.model.device import sent, staged
from phi3svc.model.inputs import int32_tensor


def sample(
    logits: Tensor, chunks: list[Chunk], workspace: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token for each row of `logits`, float32 [n, V]: ids int32 [n], log probabilities [n].

    chunks: of sequences that generate; each has one row for its last known token and one for each
    guess behind it, in this order. A row's token is what comes next if the guesses up to it are
    right. workspace: as `ops.sample` has it.

    The random number of a row depends on its seed, on the sequence's index in its request and on
    the index that the new token will have in its sequence, on nothing else: a stream that is
    recomputed or resumed draws the same numbers. Settings that no row has cost nothing.
    """
    sequences = [chunk.sequence for chunk in chunks for _ in chunk.wanted_rows]
    num_ahead = [i for chunk in chunks for i in range(len(chunk.wanted_rows))]
    requests = []
    for sequence in sequences:
        assert isinstance(sequence.request, GenerateRequest)
        requests.append(sequence.request)
    params = [request.sampling for request in requests]
    num_rows, device = len(params), logits.device
    token_ids = torch.empty(num_rows, dtype=torch.int32, device=device)
    logprobs = torch.empty(num_rows, dtype=torch.float32, device=device)
    rows = SamplingRows.off(num_rows, device)
    rows.fill(sequences)
    positions = int32_tensor(
        [sequence.num_tokens + i for sequence, i in zip(sequences, num_ahead, strict=True)]
    )
    penalties = _penalties(sequences, params)
    biases = _biases(sequences, requests, num_ahead, logits.shape[1])
    rows.sample(
        logits,
        sent(positions, device),
        token_ids,
        logprobs,
        penalties=None if penalties is None else _on_device(penalties, device),
        biases=None if biases is None else _on_device(biases, device),
        workspace=workspace,
    )
    return token_ids, logprobs


@dataclass(frozen=True)
class SamplingRows:
    """Settings of n rows, as `ops.sample` takes them; those that stay as a sequence goes on."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    typical_p: Tensor
    seeds: Tensor
    sequence_indices: Tensor

    @classmethod
    def off(cls, num_rows: int, device: torch.device) -> SamplingRows:
        return cls(
            temperature=torch.zeros(num_rows, device=device),
            top_k=torch.zeros(num_rows, dtype=torch.int32, device=device),
            top_p=torch.ones(num_rows, device=device),
            min_p=torch.zeros(num_rows, device=device),
            typical_p=torch.ones(num_rows, device=device),
            seeds=torch.zeros(num_rows, dtype=torch.int64, device=device),
            sequence_indices=torch.zeros(num_rows, dtype=torch.int32, device=device),
        )

    def fill(self, sequences: list[Sequence]) -> None:
        """Take the settings of a sequence for each of the first rows."""
        params = []
        for sequence in sequences:
            assert isinstance(sequence.request, GenerateRequest)
            params.append(sequence.request.sampling)
        seeds = np.array([p.seed for p in params], np.uint64)
        _write(self.temperature, [p.temperature for p in params])
        _write(self.top_k, [p.top_k for p in params])
        _write(self.top_p, [p.top_p for p in params])
        _write(self.min_p, [p.min_p for p in params])
        _write(self.typical_p, [p.typical_p for p in params])
        _write(self.seeds, seeds.view(np.int64))
        _write(self.sequence_indices, [sequence.index for sequence in sequences])

    def sample(
        self,
        logits: Tensor,
        positions: Tensor,
        out_ids: Tensor,
        out_logprobs: Tensor,
        *,
        penalties: ops.Penalties | None = None,
        biases: ops.Biases | None = None,
        workspace: Tensor | None = None,
    ) -> None:
        """`ops.sample` with these settings."""
        ops.sample(
            logits,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seeds=self.seeds,
            sequence_indices=self.sequence_indices,
            positions=positions,
            out_ids=out_ids,
            out_logprobs=out_logprobs,
            min_p=self.min_p,
            typical_p=self.typical_p,
            penalties=penalties,
            biases=biases,
            workspace=workspace,
        )


# A sequence with penalties guesses nothing (`speculation.py`), so its counts are those of its row.
def _penalties(sequences: list[Sequence], params: list[SamplingParams]) -> ops.Penalties | None:
    counts = [sequence.token_counts for sequence in sequences]
    if not any(counts):
        return None
    return ops.Penalties(
        repetition=_float32_tensor([p.repetition_penalty for p in params]),
        presence=_float32_tensor([p.presence_penalty for p in params]),
        frequency=_float32_tensor([p.frequency_penalty for p in params]),
        starts=_starts([len(row) if row else 0 for row in counts]),
        token_ids=_joined([row.token_ids for row in counts if row], np.int32),
        counts=_joined([row.counts for row in counts if row], np.int32),
    )


def _biases(
    sequences: list[Sequence],
    requests: list[GenerateRequest],
    num_ahead: list[int],
    vocab_size: int,
) -> ops.Biases | None:
    """Biases asked for, and every stop token forbidden while the answer is too short for one."""
    if not any(request.sampling.logit_bias or request.min_new_tokens for request in requests):
        return None
    rows: list[tuple[array[int], array[float]]] = []
    for sequence, request, i in zip(sequences, requests, num_ahead, strict=True):
        bias = request.sampling.logit_bias
        token_ids, values = array("i", bias), array("f", bias.values())
        if sequence.num_generated + i < request.min_new_tokens:
            stop_ids = [stop_id for stop_id in request.stop_token_ids if stop_id < vocab_size]
            token_ids.extend(stop_ids)
            values.extend([-math.inf] * len(stop_ids))
        rows.append((token_ids, values))
    lengths = [len(token_ids) for token_ids, _ in rows]
    if not any(lengths):
        return None
    return ops.Biases(
        starts=_starts(lengths),
        token_ids=_joined([token_ids for token_ids, _ in rows], np.int32),
        values=_joined([values for _, values in rows], np.float32),
    )


def _write(target: Tensor, values: list[float] | list[int] | np.ndarray) -> None:
    """To the first elements of a small tensor, on whatever device."""
    if target.device.type == "cpu":
        # By way of numpy, where a small array costs a fraction of what a small tensor does.
        target.numpy()[: len(values)] = values
    else:
        given = torch.as_tensor(values, dtype=target.dtype)
        target[: len(values)].copy_(staged(given), non_blocking=True)


_Entries = TypeVar("_Entries", ops.Penalties, ops.Biases)


def _on_device(entries: _Entries, device: torch.device) -> _Entries:
    """The same with every tensor on a device."""
    if device.type == "cpu":
        return entries
    names = [field.name for field in fields(entries)]
    moved = {name: sent(getattr(entries, name), device) for name in names}
    return replace(entries, **moved)


def _starts(lengths: list[int]) -> Tensor:
    return int32_tensor([0, *accumulate(lengths)])


def _joined(rows: Iterable[array[Any]], dtype: type[np.generic]) -> Tensor:
    # A bytearray, not bytes: torch warns of memory that it may not write.
    return torch.from_numpy(np.frombuffer(bytearray().join(rows), dtype))


def _float32_tensor(values: list[float]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
