"""Which beams of one prompt go on, and which answers are the best so far.

Equal to transformers' `_beam_search` for a batch of one prompt, in float32 as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phi3svc.api.generation_config import GenerationConfig

_NEVER = -1e9
"""Score of a beam that is not there: below all others, but finite, as in transformers."""

StopsAnswers = Callable[[list[list[int]]], Sequence[bool]]
"""Of some answers, each with its newest token: which of them end there."""


@dataclass(frozen=True)
class Hypothesis:
    """One answer. parents: for each of its tokens, the beam that it was appended to."""

    answer_ids: list[int]
    parents: list[int]
    is_finished: bool = False


class BeamHypotheses:
    """The W beams of one prompt, and its W best finished answers.

    Each step takes the C likeliest continuations of the beams (with do_sample, C drawn without
    replacement, in the order drawn). C is W times one more than there are stop tokens, so that W
    can go on whatever ends. Those among the first W that end are finished; of all that do not end,
    the W likeliest are the new beams.

    running: the beams, best first; at the beginning one, which stands for all. scores: float32 [W],
    the sums of their tokens' scores. is_done: nothing can come of another step.
    """

    def __init__(
        self,
        settings: GenerationConfig,
        eos_token_ids: Collection[int],
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> None:
        """generator: where the draws come from, with do_sample."""
        num_beams = settings.num_beams
        self._settings = settings
        self._eos_token_ids = frozenset(eos_token_ids)
        self._num_candidates = num_candidates(num_beams, len(self._eos_token_ids))
        self._max_new_tokens = max_new_tokens
        self._generator = generator
        self.running = [Hypothesis([], [])]
        self.scores = torch.full((num_beams,), _NEVER)
        self.scores[0] = 0
        self._best = [Hypothesis([], [])] * num_beams
        self._best_scores = torch.full((num_beams,), _NEVER)
        self.is_done = False

    @property
    def num_beams(self) -> int:
        """W."""
        return self._settings.num_beams

    def best(self, num: int) -> list[tuple[Hypothesis, float]]:
        """The best `num` finished answers and their scores, best first.

        A score is the sum of the scores of the answer's tokens, over length ** length_penalty.
        """
        return list(zip(self._best[:num], self._best_scores.tolist(), strict=False))

    def advance(self, token_scores: Tensor, should_stop: StopsAnswers | None = None) -> list[int]:
        """Go on by one token; the beams that the new beams come from.

        token_scores: of the tokens after each running beam, float32 [W, V] (or [1, V] at first).
        """
        num_beams = self.num_beams
        scores, beams, token_ids = self._continuations(token_scores)
        candidates = [
            Hypothesis(
                [*self.running[beam].answer_ids, token_id], [*self.running[beam].parents, beam]
            )
            for beam, token_id in zip(beams, token_ids, strict=True)
        ]
        ends = self._ends(candidates, should_stop)
        running_scores = scores + ends * _NEVER
        order = running_scores.topk(num_beams).indices
        self.scores = running_scores[order]
        self.running = [candidates[i] for i in order.tolist()]
        self._finish(candidates, scores, ends)
        self.is_done = self._is_done(bool(ends.all()))
        return [hypothesis.parents[-1] for hypothesis in self.running]

    def _continuations(self, token_scores: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """Scores [C], beams and tokens of the continuations to look at."""
        vocab_size = token_scores.shape[1]
        if len(self.running) == 1:
            self.running = self.running * self.num_beams
        totals = (token_scores + self.scores[:, None]).flatten()
        if self._settings.do_sample:
            chosen = totals.softmax(-1).multinomial(self._num_candidates, generator=self._generator)
        else:
            chosen = totals.topk(self._num_candidates).indices
        beams = (chosen // vocab_size).tolist()
        return totals[chosen], beams, (chosen % vocab_size).tolist()

    def _ends(self, candidates: list[Hypothesis], should_stop: StopsAnswers | None) -> Tensor:
        """Which candidates do not go on: bool [C]."""
        answers = [candidate.answer_ids for candidate in candidates]
        is_last = len(answers[0]) >= self._max_new_tokens
        ends = torch.tensor([is_last or answer[-1] in self._eos_token_ids for answer in answers])
        if should_stop is not None:
            ends |= torch.tensor(list(should_stop(answers)), dtype=torch.bool)
        return ends

    def _finish(self, candidates: list[Hypothesis], scores: Tensor, ends: Tensor) -> None:
        """Put what ends among the best."""
        num_beams = self.num_beams
        is_finished = ends.clone()
        is_finished[num_beams:] = False
        own_scores = scores / self._length_weight(len(candidates[0].answer_ids))
        merged = [
            *self._best,
            *(
                Hypothesis(candidate.answer_ids, candidate.parents, finished)
                for candidate, finished in zip(candidates, is_finished.tolist(), strict=True)
            ),
        ]
        merged_scores = torch.cat((self._best_scores, own_scores + ~is_finished * _NEVER))
        order = merged_scores.topk(num_beams).indices
        self._best_scores = merged_scores[order]
        self._best = [merged[i] for i in order.tolist()]

    def _is_done(self, all_end: bool) -> bool:
        are_full = all(hypothesis.is_finished for hypothesis in self._best)
        if all_end or (are_full and self._settings.early_stopping is True):
            return True
        # What a beam may still reach. With a length penalty this is a guess, and transformers'.
        length = len(self.running[0].answer_ids)
        if self._settings.early_stopping == "never" and self._settings.length_penalty > 0:
            length = self._max_new_tokens
        reachable = self.scores[0] / self._length_weight(length)
        return not bool(reachable > (self._best_scores.min() if are_full else _NEVER))

    def _length_weight(self, length: int) -> float:
        try:
            return float(length**self._settings.length_penalty)
        except OverflowError:
            return math.inf


def num_candidates(num_beams: int, num_eos: int) -> int:
    """C, how many continuations a step looks at."""
    return max(2, 1 + num_eos) * num_beams
