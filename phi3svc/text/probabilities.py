"""From raw scores of a classification head to probabilities, as transformers' pipelines do it.

Results are rounded to float32, which is what transformers computes in: probabilities that are equal
there, as those next to 1 often are, are equal here, and ties between labels fall the same way.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence

from phi3svc.config.model import Phi3Config


def softmax(scores: Sequence[float]) -> Sequence[float]:
    """Probabilities of labels that exclude each other, [C] like `scores`."""
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total = math.fsum(weights)
    return array("f", (weight / total for weight in weights))


def sigmoid(scores: Sequence[float]) -> Sequence[float]:
    """Probability of each label by itself, [C] like `scores`."""
    return array("f", map(_sigmoid, scores))


def unchanged(scores: Sequence[float]) -> Sequence[float]:
    """The raw values, as a regression wants them."""
    return array("f", scores)


def _sigmoid(score: float) -> float:
    # Written for either sign, so that exp never overflows.
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    weight = math.exp(score)
    return weight / (1 + weight)


Function = Callable[[Sequence[float]], Sequence[float]]
# By the names of `function_to_apply` in transformers' text-classification pipeline.
FUNCTIONS: Mapping[str, Function] = {"sigmoid": sigmoid, "softmax": softmax, "none": unchanged}


def probabilities(scores: Sequence[float], config: Phi3Config) -> Sequence[float]:
    """What one row of raw scores [C] of a sequence classifier comes to, by its config.

    The raw values of a regression; each label's own sigmoid where labels do not exclude each other,
    and for a single label, whatever its problem_type is but regression; else softmax.
    """
    if config.problem_type == "regression":
        return unchanged(scores)
    if config.problem_type == "multi_label_classification" or len(scores) == 1:
        return sigmoid(scores)
    return softmax(scores)
