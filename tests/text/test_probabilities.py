"""Probabilities against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.text.probabilities import probabilities, softmax


def config(problem_type: str | None) -> Phi3Config:
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 8}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64}
    return Phi3Config.from_dict(
        {"model_type": "phi3", "problem_type": problem_type, **sizes, **heads}
    )


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_exclusive_labels_share_one(problem_type: str | None) -> None:
    scores = [math.log(1), math.log(2), math.log(5)]
    assert probabilities(scores, config(problem_type)) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("num_labels", [1, 3])
def test_independent_labels_stand_alone(num_labels: int) -> None:
    scores = [math.log(3), 0.0, -math.log(3)][:num_labels]
    assert probabilities(scores, config("multi_label_classification")) == pytest.approx(
        [0.75, 0.5, 0.25][:num_labels]
    )


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_a_single_label_is_a_sigmoid(problem_type: str | None) -> None:
    assert probabilities([math.log(3)], config(problem_type)) == pytest.approx([0.75])


@pytest.mark.parametrize("scores", [[3.25], [-7.5, 3.25]])
def test_regression_stays_raw(scores: list[float]) -> None:
    assert list(probabilities(scores, config("regression"))) == scores


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_huge_scores_do_not_overflow(problem_type: str | None) -> None:
    high, low, _ = probabilities([1e4, -1e4, -1e4], config(problem_type))
    assert (high, low) == (1.0, 0.0)


def test_probabilities_that_float32_cannot_tell_apart_are_equal() -> None:
    assert max(softmax([0.0, 20.0])) == max(softmax([30.0, 0.0])) == 1.0
