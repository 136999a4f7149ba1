"""What happens to scores before a token is chosen, step by step, in torch.

The rules of transformers' processors of the same names, and of presence and frequency penalty and
logit bias, which are ours (`ops.sample`, whose order this is). All take and return scores, float32
[n, V], and leave the ones they were given as they were; a forbidden token has -inf.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from phi3svc.api.generation_config import GenerationConfig


@dataclass(frozen=True)
class History:
    """The tokens of one sequence so far, without padding."""

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]


class LogitsProcessor(Protocol):
    """histories: of the n rows of scores."""

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides the positive, multiplies the other scores of tokens seen (Keskar et al. 2019)."""

    penalty: float

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, history in zip(scores, histories, strict=True):
            seen = torch.tensor([*{*history.prompt_ids, *history.answer_ids}])
            own = row[seen]
            row[seen] = torch.where(own < 0, own * self.penalty, own / self.penalty)
        return scores


@dataclass(frozen=True)
class OccurrencePenalties:
    """Subtracts from tokens that the answer has: `frequency` per occurrence, `presence` once."""

    presence: float
    frequency: float

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, history in zip(scores, histories, strict=True):
            if history.answer_ids:
                counts = Counter(history.answer_ids)
                num_times = torch.tensor([*counts.values()], dtype=torch.float32)
                own = torch.tensor([*counts])
                row[own] = row[own] - self.frequency * num_times - self.presence
        return scores


class LogitBias:
    """Adds to single tokens."""

    def __init__(self, biases: dict[int, float]) -> None:
        self._token_ids = torch.tensor([*biases])
        self._values = torch.tensor([*biases.values()], dtype=torch.float32)

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        return scores.index_add(1, self._token_ids, self._values.expand(len(scores), -1))


class MinLength:
    """Forbids the stop tokens while prompt and answer are shorter than `min_length` tokens, or the
    answer shorter than `min_new_tokens`."""

    def __init__(self, min_length: int, min_new_tokens: int, eos_token_ids: Sequence[int]) -> None:
        self._min_length = min_length
        self._min_new_tokens = min_new_tokens
        self._eos_token_ids = torch.tensor(eos_token_ids)

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        too_short = [row for row, history in enumerate(histories) if self._is_too_short(history)]
        scores = scores.clone()
        scores[torch.tensor(too_short, dtype=torch.int64)[:, None], self._eos_token_ids] = -math.inf
        return scores

    def _is_too_short(self, history: History) -> bool:
        num_new = len(history.answer_ids)
        length = len(history.prompt_ids) + num_new
        return length < self._min_length or num_new < self._min_new_tokens


@dataclass(frozen=True)
class Temperature:
    temperature: float

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        return scores / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keeps the k highest scores, and all that equal the lowest of them (Fan et al. 2018)."""

    top_k: int
    min_tokens_to_keep: int = 1

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        k = min(max(self.top_k, self.min_tokens_to_keep), scores.shape[1])
        kth = scores.topk(k).values[:, -1:]
        return scores.masked_fill(scores < kth, -math.inf)


@dataclass(frozen=True)
class TopP:
    """Forbids the unlikeliest tokens that have 1 - p of the mass together (Holtzman et al. 2019).

    The token that crosses the line stays.
    """

    top_p: float
    min_tokens_to_keep: int = 1

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        rising, token_ids = scores.sort(descending=False)
        is_out = rising.softmax(-1).cumsum(-1) <= 1 - self.top_p
        is_out[:, -self.min_tokens_to_keep :] = False
        return scores.masked_fill(is_out.scatter(1, token_ids, is_out), -math.inf)


@dataclass(frozen=True)
class MinP:
    """Forbids tokens less likely than p times the likeliest (Nguyen et al. 2024)."""

    min_p: float
    min_tokens_to_keep: int = 1

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        probs = scores.softmax(-1)
        is_out = probs < self.min_p * probs.amax(-1, keepdim=True)
        best = probs.topk(min(self.min_tokens_to_keep, probs.shape[1])).indices
        return scores.masked_fill(is_out.scatter(1, best, False), -math.inf)


@dataclass(frozen=True)
class TypicalP:
    """Keeps the tokens whose surprise is nearest to the entropy, with p of the mass together.

    Meister et al. 2022. All that are as near as the last one needed stay.
    """

    typical_p: float
    min_tokens_to_keep: int = 1

    def __call__(self, histories: Sequence[History], scores: Tensor) -> Tensor:
        logprobs = scores.log_softmax(-1)
        entropy = -(logprobs * logprobs.exp()).nansum(-1, keepdim=True)  # 0 · -inf counts as 0
        distances, token_ids = (-logprobs - entropy).abs().sort(descending=False)
        mass = scores.gather(1, token_ids).softmax(-1).cumsum(-1)
        last = (mass < self.typical_p).sum(-1, keepdim=True).clamp_(max=scores.shape[1] - 1)
        is_out = distances > distances.gather(1, last)
        is_out[:, : self.min_tokens_to_keep] = False
        return scores.masked_fill(is_out.scatter(1, token_ids, is_out), -math.inf)


def processors_for(
    settings: GenerationConfig, eos_token_ids: Sequence[int]
) -> tuple[LogitsProcessor, ...]:
    """What `settings` ask for, in the order in which it applies.

    Those that shape the distribution (temperature and what follows) are among them only with
    do_sample. eos_token_ids: of the vocabulary. Beams keep one token more than there are of these,
    so that one can always go on, as in transformers.
    """
    found: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenalty(settings.repetition_penalty))
    if settings.presence_penalty or settings.frequency_penalty:
        found.append(OccurrencePenalties(settings.presence_penalty, settings.frequency_penalty))
    if settings.logit_bias:
        found.append(LogitBias(dict(settings.logit_bias)))
    min_new_tokens = settings.min_new_tokens or 0
    min_length = settings.min_length if settings.min_new_tokens is None else 0
    if eos_token_ids and (min_length or min_new_tokens):
        found.append(MinLength(min_length, min_new_tokens, eos_token_ids))
    if settings.do_sample:
        found += _warpers_for(settings, _min_tokens_to_keep(settings, eos_token_ids))
    return tuple(found)


def process(
    processors: Sequence[LogitsProcessor], histories: Sequence[History], scores: Tensor
) -> Tensor:
    """`scores`, float32 [n, V], after all processors."""
    for processor in processors:
        scores = processor(histories, scores)
    return scores


def _min_tokens_to_keep(settings: GenerationConfig, eos_token_ids: Sequence[int]) -> int:
    if settings.num_beams == 1:
        return 1
    return len(eos_token_ids) + 1 if eos_token_ids else 2


def _warpers_for(settings: GenerationConfig, min_tokens_to_keep: int) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = []
    if settings.temperature != 1:
        found.append(Temperature(settings.temperature))
    if settings.top_k:
        found.append(TopK(settings.top_k, min_tokens_to_keep))
    if settings.top_p < 1:
        found.append(TopP(settings.top_p, min_tokens_to_keep))
    if settings.min_p:
        found.append(MinP(settings.min_p, min_tokens_to_keep))
    if settings.typical_p < 1:
        found.append(TypicalP(settings.typical_p, min_tokens_to_keep))
    return found
