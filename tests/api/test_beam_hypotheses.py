"""The rules of beam search, without a network."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from phi3svc.api.beam_hypotheses import BeamHypotheses
from phi3svc.api.generation_config import GenerationConfig

PROBS = [0.4, 0.3, 0.2, 0.07, 0.03]


def test_draws_are_without_replacement_and_in_proportion() -> None:
    """The better one of the first two drawn is the answer: its distribution is known."""
    expected = [0.0] * len(PROBS)
    for first, p in enumerate(PROBS):
        for second, q in enumerate(PROBS):
            if second != first:
                expected[min(first, second)] += p * q / (1 - p)
    settings = GenerationConfig(num_beams=2, do_sample=True)
    counts: Counter[int] = Counter()
    num_draws = 4000
    for seed in range(num_draws):
        search = BeamHypotheses(settings, [], 1, torch.Generator().manual_seed(seed))
        search.advance(torch.tensor([PROBS]).log())
        (answer, _), (other, _) = search.best(2)
        assert answer.answer_ids != other.answer_ids
        counts[answer.answer_ids[0]] += 1
    for token_id, probability in enumerate(expected):
        deviation = (num_draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[token_id] - num_draws * probability) <= 4 * deviation


def test_a_power_of_a_length_may_be_no_float() -> None:
    settings = GenerationConfig(num_beams=2, length_penalty=100.0, early_stopping="never")
    search = BeamHypotheses(settings, [], 5000)
    search.advance(torch.tensor([PROBS]).log())
    assert not search.is_done


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty", "go_on", "num_steps"),
    [
        (True, 1.0, 0.6, 2),
        (False, 1.0, 0.6, 50),
        (False, 1.0, 0.3, 2),
        ("never", 1.0, 0.3, 45),
        ("never", -1.0, 0.6, 3),
    ],
)
def test_stops_when_nothing_better_can_come(
    early_stopping: bool | str, length_penalty: float, go_on: float, num_steps: int
) -> None:
    """After two steps there are two answers, of -0.92 and, with 0.3, (ln 0.3 + ln 0.4) / 2 = -1.06.

    True is content with any. False asks whether the best beam, ln go_on per token, is better now;
    "never" whether it could be at full length, which ends with k ln 0.3 / 50 < -1.06. Where length
    is no merit, the beam will not be better than it is: 3 · 3 ln 0.6 < 2 (ln 0.6 + ln 0.4).
    """
    settings = GenerationConfig(
        num_beams=2, early_stopping=early_stopping, length_penalty=length_penalty
    )
    search = BeamHypotheses(settings, [0], 50)
    steps = 0
    while not search.is_done:
        search.advance(torch.tensor([[0.4, go_on, 0.6 - go_on + 1e-9]]).log())
        steps += 1
    assert steps == num_steps


def test_stops_where_all_end() -> None:
    """Also with fewer continuations than beams, which leaves room among the best."""
    settings = GenerationConfig(num_beams=4, early_stopping="never")
    search = BeamHypotheses(settings, [], 50)
    search.advance(torch.tensor([[0.5, 0.5]]).log(), lambda answers: [True] * len(answers))
    assert search.is_done
