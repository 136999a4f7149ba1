"""The shipped models in 8 and 4 bits do what they do in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi3svc.config.checkpoint import resolve_source
from phi3svc.model.loader import load_network
from tests.bench.held_out import answers, entity_f1, sentiment_accuracy

# How much larger the perplexity may be, and which share of the tokens may change. Measured are
# 0.0002 and 0.001 in int8, 0.0006 and 0.009 in int4.
LIMITS = {"int8": (0.001, 0.004), "int4": (0.002, 0.018)}
MIN_SCORE = 0.95


def folder(name: str) -> Path:
    return resolve_source(name).path


@pytest.mark.parametrize("dtype", LIMITS)
def test_answers_are_as_likely_and_nearly_the_same(dtype: str) -> None:
    exact, rounded = (
        answers(load_network(folder("demo"), name), 100) for name in ("bfloat16", dtype)
    )
    max_loss, max_changed = LIMITS[dtype]
    assert rounded.perplexity / exact.perplexity < 1 + max_loss
    assert 0 < 1 - rounded.agreement(exact) < max_changed


@pytest.mark.parametrize("dtype", LIMITS)
def test_classifiers_stay_as_good_as_they_must_be(dtype: str) -> None:
    assert sentiment_accuracy(load_network(folder("demo-sentiment"), dtype), 300) >= MIN_SCORE
    assert entity_f1(load_network(folder("demo-entities"), dtype), 150) >= MIN_SCORE
