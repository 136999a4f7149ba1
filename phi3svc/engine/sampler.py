"""The next token of each row, with every row's own settings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.batch import int32_tensor
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sequence import SampledToken, Sequence


def sample(logits: Tensor, sequences: list[Sequence]) -> list[SampledToken]:
    """One token for each row of `logits`, float32 [n, V]; row i belongs to sequence i.

    The random number of a row depends on its seed and on the index that the new token will have in
    its sequence, on nothing else: a stream that is recomputed or resumed draws the same numbers.
    """
    params = []
    for sequence in sequences:
        assert isinstance(sequence.request, GenerateRequest)
        params.append(sequence.request.sampling)
    num_rows = len(params)
    token_ids = torch.empty(num_rows, dtype=torch.int32)
    logprobs = torch.empty(num_rows, dtype=torch.float32)
    ops.sample(
        logits,
        temperature=torch.tensor([p.temperature for p in params], dtype=torch.float32),
        top_k=int32_tensor([p.top_k for p in params]),
        top_p=torch.tensor([p.top_p for p in params], dtype=torch.float32),
        seeds=torch.from_numpy(np.array([p.seed for p in params], np.uint64).view(np.int64)),
        sequence_indices=torch.zeros(num_rows, dtype=torch.int32),
        positions=int32_tensor([sequence.num_tokens for sequence in sequences]),
        out_ids=token_ids,
        out_logprobs=logprobs,
    )
    return [
        SampledToken(token_id, logprob)
        for token_id, logprob in zip(token_ids.tolist(), logprobs.tolist(), strict=True)
    ]
