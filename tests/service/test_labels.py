"""Probabilities against values worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.engine.async_engine import ModelInfo
from phi3svc.service.labels import probabilities


@pytest.fixture
def config(infos: list[ModelInfo]) -> Phi3Config:
    return infos[1].config


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_exclusive_labels_share_one(config: Phi3Config, problem_type: str | None) -> None:
    config = dataclasses.replace(config, problem_type=problem_type)
    assert probabilities([math.log(1), math.log(2), math.log(5)], config) == pytest.approx(
        [1 / 8, 2 / 8, 5 / 8]
    )


def test_independent_labels_stand_alone(config: Phi3Config) -> None:
    config = dataclasses.replace(config, problem_type="multi_label_classification")
    assert probabilities([math.log(3), 0.0, -math.log(3)], config) == pytest.approx(
        [0.75, 0.5, 0.25]
    )


def test_a_single_label_is_a_sigmoid(config: Phi3Config) -> None:
    assert probabilities([math.log(3)], config) == pytest.approx([0.75])


def test_regression_stays_raw(config: Phi3Config) -> None:
    config = dataclasses.replace(config, problem_type="regression")
    assert probabilities([-7.5, 3.25], config) == [-7.5, 3.25]


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_huge_scores_do_not_overflow(config: Phi3Config, problem_type: str | None) -> None:
    config = dataclasses.replace(config, problem_type=problem_type)
    high, low, _ = probabilities([1e4, -1e4, -1e4], config)
    assert (high, low) == (1.0, 0.0)
