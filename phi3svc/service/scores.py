"""From raw scores of a classification head to probabilities, as transformers' pipelines do it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from phi3svc.config.model import Phi3Config


def probabilities(scores: Sequence[float], config: Phi3Config) -> list[float]:
    """What `LabelScore.score` holds for one row of raw scores [num_labels].

    Softmax over the labels; each label's own sigmoid where labels do not exclude each other, and
    for a single label; the raw values of a regression.
    """
    if config.problem_type == "regression":
        return list(scores)
    if config.problem_type == "multi_label_classification" or len(scores) == 1:
        return [sigmoid(score) for score in scores]
    return softmax(scores)


def softmax(scores: Sequence[float]) -> list[float]:
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def sigmoid(score: float) -> float:
    # Written for either sign, so that exp never overflows.
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    weight = math.exp(score)
    return weight / (1 + weight)
