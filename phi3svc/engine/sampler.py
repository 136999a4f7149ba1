"""The next token of each row, with every row's own settings."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.chunks import Chunk
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.model.inputs import int32_tensor


def sample(logits: Tensor, chunks: list[Chunk]) -> tuple[Tensor, Tensor]:
    """One token for each row of `logits`, float32 [n, V]: ids int32 [n], log probabilities [n].

    chunks: of sequences that generate; each has one row for its last known token and one for each
    guess behind it, in this order. A row's token is what comes next if the guesses up to it are
    right.

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
    num_rows = len(params)
    token_ids = torch.empty(num_rows, dtype=torch.int32)
    logprobs = torch.empty(num_rows, dtype=torch.float32)
    rows = SamplingRows.off(num_rows)
    rows.fill(sequences)
    rows.sample(
        logits,
        int32_tensor(
            [sequence.num_tokens + i for sequence, i in zip(sequences, num_ahead, strict=True)]
        ),
        token_ids,
        logprobs,
        penalties=_penalties(sequences, params),
        biases=_biases(sequences, requests, num_ahead, logits.shape[1]),
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
    def off(cls, num_rows: int) -> SamplingRows:
        return cls(
            temperature=torch.zeros(num_rows),
            top_k=torch.zeros(num_rows, dtype=torch.int32),
            top_p=torch.ones(num_rows),
            min_p=torch.zeros(num_rows),
            typical_p=torch.ones(num_rows),
            seeds=torch.zeros(num_rows, dtype=torch.int64),
            sequence_indices=torch.zeros(num_rows, dtype=torch.int32),
        )

    def fill(self, sequences: list[Sequence]) -> None:
        """Take the settings of a sequence for each row."""
        params = []
        for sequence in sequences:
            assert isinstance(sequence.request, GenerateRequest)
            params.append(sequence.request.sampling)
        self.temperature.numpy()[:] = [p.temperature for p in params]
        self.top_k.numpy()[:] = [p.top_k for p in params]
        self.top_p.numpy()[:] = [p.top_p for p in params]
        self.min_p.numpy()[:] = [p.min_p for p in params]
        self.typical_p.numpy()[:] = [p.typical_p for p in params]
        self.seeds.numpy().view(np.uint64)[:] = np.array([p.seed for p in params], np.uint64)
        self.sequence_indices.numpy()[:] = [sequence.index for sequence in sequences]

    def sample(
        self,
        logits: Tensor,
        positions: Tensor,
        out_ids: Tensor,
        out_logprobs: Tensor,
        *,
        penalties: ops.Penalties | None = None,
        biases: ops.Biases | None = None,
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


def _starts(lengths: list[int]) -> Tensor:
    return int32_tensor([0, *accumulate(lengths)])


def _joined(rows: Iterable[array[Any]], dtype: type[np.generic]) -> Tensor:
    # A bytearray, not bytes: torch warns of memory that it may not write.
    return torch.from_numpy(np.frombuffer(bytearray().join(rows), dtype))


def _float32_tensor(values: list[float]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
