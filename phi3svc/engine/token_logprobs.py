"""Log probabilities of given tokens and of the likeliest ones, under the model's raw logits."""

from __future__ import annotations

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.engine.events import TopLogprobs


def token_logprobs(
    logits: Tensor, token_ids: Tensor, nums_top: list[int]
) -> tuple[list[float], list[TopLogprobs | None]]:
    """Of each row of `logits`, float32 [n, V]: that of its token, and of its likeliest tokens.

    token_ids: int32 [n]; -1, for a row that is broken, gives NaN. nums_top: how many of the
    likeliest each row wants, 0 for None; more than the vocabulary has are all of it.
    """
    num_rows, vocab_size = logits.shape
    num_top = min(max(nums_top, default=0), vocab_size)
    device = logits.device
    logprobs = torch.empty(num_rows, dtype=torch.float32, device=device)
    top_ids = torch.empty(num_rows, num_top, dtype=torch.int32, device=device)
    top_logprobs = torch.empty(num_rows, num_top, dtype=torch.float32, device=device)
    known_ids = token_ids.to(device).clamp(min=0)
    ops.logprobs(logits, known_ids, logprobs, top_ids, top_logprobs)
    top = [
        TopLogprobs(ids[:wanted], values[:wanted]) if wanted else None
        for ids, values, wanted in zip(
            top_ids.tolist(), top_logprobs.tolist(), nums_top, strict=True
        )
    ]
    return logprobs.tolist(), top
