"""`sample` and `logprobs` of `phi3svc.ops` again in plain Python and torch, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox4x32_10(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32 with ten rounds (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _WORD, (k1 + _PHILOX_WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, sequence_idx: int, position: int) -> float:
    """The number in [0, 1) that decides the token at a position; 24 bits of it."""
    counter = (position & _WORD, sequence_idx & _WORD, 0, 0)
    word, *_ = philox4x32_10(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return (word >> 8) * 2.0**-24


def penalized(
    logits: Tensor,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
    bias: Mapping[int, float] | None = None,
) -> Tensor:
    """Logits [V] after the penalties for the tokens seen, then the biases; float64."""
    scores = logits.double()
    for token in {*prompt_ids, *answer_ids}:
        scores[token] *= repetition if scores[token] < 0 else 1 / repetition
    for token in answer_ids:
        scores[token] -= frequency
    for token in set(answer_ids):
        scores[token] -= presence
    for token, value in (bias or {}).items():
        scores[token] += value
    return scores


def distribution(
    logits: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
    typical_p: float = 1.0,
) -> Tensor:
    """Probabilities [V] after transformers' processors of these names, float64."""
    scores = logits.double() / temperature
    if top_k:
        kth = scores.topk(min(top_k, scores.numel())).values[-1]
        scores = scores.masked_fill(scores < kth, -math.inf)
    if top_p < 1:
        ascending, order = scores.sort()
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[-1] = False
        scores = scores.masked_fill(removed.scatter(0, order, removed), -math.inf)
    probabilities = scores.softmax(-1)
    scores = scores.masked_fill(probabilities < min_p * probabilities.max(), -math.inf)
    if typical_p < 1:
        surprise = -scores.log_softmax(-1)
        entropy = (scores.softmax(-1) * surprise).nansum()
        distance = (surprise - entropy).abs()
        ascending, order = distance.sort()
        mass = scores.softmax(-1)[order].cumsum(-1)
        last = min(int((mass < typical_p).sum()), len(mass) - 1)
        scores = scores.masked_fill(distance > ascending[last], -math.inf)
    return scores.softmax(-1)


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, u: float) -> int:
    """The token that the uniform number `u` draws from `logits` [V]."""
    if temperature == 0:
        return int(torch.nonzero(logits == logits.max())[0])
    cumulative = distribution(logits, temperature, top_k, top_p).cumsum(-1)
    return int(torch.searchsorted(cumulative, u * cumulative[-1], right=True))


def logprobs(logits: Tensor, token_ids: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log softmax of the rows [n, V] at `token_ids`, float64 [n]; ids and values of the k largest.

    Of equal logits the lower id comes first: ids int32 [n, k], values float64 [n, k].
    """
    values = logits.double().log_softmax(-1)
    top_ids = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    of_tokens = values.gather(1, token_ids.long()[:, None])[:, 0]
    return of_tokens, top_ids.int(), values.gather(1, top_ids)
