"""`sample`: min-p, typical-p, penalties and biases against transformers' own processors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

import reference_sampling
from compare import assert_close
from devices import DEVICE
from op_tensors import i32, randn, sample_workspace
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

# temperature, top_k, top_p, min_p, typical_p
FILTERS = [
    (1.0, 0, 1.0, 0.1, 1.0),
    (0.7, 0, 1.0, 0.02, 1.0),
    (1.0, 0, 1.0, 1.0, 1.0),
    (1.0, 0, 1.0, 0.0, 0.9),
    (1.0, 0, 1.0, 0.0, 0.2),
    (1.7, 0, 1.0, 0.0, 0.6),
    (1.0, 0, 1.0, 0.0, 1e-6),
    (1.2, 30, 0.9, 0.05, 0.8),
    (0.8, 0, 0.95, 0.01, 0.95),
]
IDS = [[3, 5, 5, 0]]


def draw(
    logits: Tensor,
    filters: tuple[float, int, float, float, float],
    num_draws: int,
    penalties: ops.Penalties | None = None,
    biases: ops.Biases | None = None,
) -> list[int]:
    """Ids drawn from one row of logits at positions 0, 1, …."""
    temperature, top_k, top_p, min_p, typical_p = filters
    ids = torch.empty(num_draws, dtype=torch.int32)
    logits = logits.repeat(num_draws, 1)
    ops.sample(
        logits,
        torch.full((num_draws,), temperature),
        torch.full((num_draws,), top_k, dtype=torch.int32),
        torch.full((num_draws,), top_p),
        torch.full((num_draws,), 99),
        torch.zeros(num_draws, dtype=torch.int32),
        torch.arange(num_draws, dtype=torch.int32),
        ids,
        torch.empty(num_draws),
        min_p=torch.full((num_draws,), min_p),
        typical_p=torch.full((num_draws,), typical_p),
        penalties=penalties,
        biases=biases,
        workspace=sample_workspace(logits),
    )
    drawn: list[int] = ids.tolist()
    return drawn


def repeated(
    num_rows: int,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> ops.Penalties:
    seen = sorted({*prompt_ids, *answer_ids})
    return ops.Penalties(
        torch.full((num_rows,), repetition),
        torch.full((num_rows,), presence),
        torch.full((num_rows,), frequency),
        torch.arange(num_rows + 1, dtype=torch.int32) * len(seen),
        i32(*seen).repeat(num_rows),
        i32(*(list(answer_ids).count(token) for token in seen)).repeat(num_rows),
    )


def repeated_biases(num_rows: int, bias: Mapping[int, float]) -> ops.Biases:
    return ops.Biases(
        torch.arange(num_rows + 1, dtype=torch.int32) * len(bias),
        i32(*bias).repeat(num_rows),
        torch.tensor(list(bias.values())).repeat(num_rows),
    )


def warped(logits: Tensor, filters: tuple[float, int, float, float, float]) -> Tensor:
    """Scores [V] that transformers leaves."""
    temperature, top_k, top_p, min_p, typical_p = filters
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    if typical_p < 1:
        warpers.append(TypicalLogitsWarper(typical_p))
    scores: Tensor = warpers(torch.tensor(IDS), logits[None].clone())[0]
    return scores


def assert_inverts(drawn: list[int], probabilities: Tensor) -> None:
    """Draw i lies where the cumulative probabilities reach its uniform number."""
    cumulative = probabilities.cumsum(-1)
    for position, token in enumerate(drawn):
        u = reference_sampling.uniform(99, 0, position)
        assert probabilities[token] > 0, f"drew {token}, which is filtered out"
        assert cumulative[token] - probabilities[token] <= u + 1e-5
        assert cumulative[token] > u - 1e-5


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("vocab_size", [2, 37, 1000])
def test_reference_keeps_what_transformers_keeps(
    filters: tuple[float, int, float, float, float], vocab_size: int
) -> None:
    for _ in range(5):
        logits = 3 * randn(vocab_size)
        expected = warped(logits, filters)
        actual = reference_sampling.distribution(logits, *filters)
        assert ((actual > 0) == expected.isfinite()).all()
        assert_close(actual, expected.double().softmax(-1), atol=1e-5)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("vocab_size", [1, 2, 17, 64, 65, 257, 1000, 32064])
def test_filters_draw_from_the_reference(
    filters: tuple[float, int, float, float, float], vocab_size: int
) -> None:
    logits = 3 * randn(vocab_size)
    assert_inverts(draw(logits, filters, 64), reference_sampling.distribution(logits, *filters))


@pytest.mark.parametrize("filters", FILTERS)
def test_filters_keep_exactly_what_transformers_keeps(
    filters: tuple[float, int, float, float, float],
) -> None:
    for _ in range(4):
        logits = 0.6 * randn(16)  # every kept token is likely enough to come up
        kept = warped(logits, filters).softmax(-1)
        assert kept[kept > 0].min() > 20 / 4000
        assert sorted(set(draw(logits, filters, 4000))) == kept.nonzero().flatten().tolist()


def test_ties_stay_together() -> None:
    """Two pairs of equal logits: min-p 1 keeps both of the best, typical-p both of its last."""
    logits = torch.tensor([2.0, 0.5, 2.0, 0.5, -3.0])
    for filters in ((1.0, 0, 1.0, 1.0, 1.0), (1.0, 0, 1.0, 0.0, 0.1)):
        kept = warped(logits, filters).isfinite().nonzero().flatten().tolist()
        assert len(kept) == 2
        assert sorted(set(draw(logits, filters, 500))) == kept


def test_typical_drops_the_likeliest_where_transformers_does() -> None:
    """One token at half of the mass and many rare ones: the rare ones are the typical ones."""
    logits = torch.cat([torch.tensor([math.log(40.0)]), torch.zeros(60)])
    filters = (1.0, 0, 1.0, 0.0, 0.5)
    assert warped(logits, filters)[0] == -math.inf
    assert 0 not in draw(logits, filters, 500)


def test_typical_and_min_p_survive_extreme_temperatures() -> None:
    logits = 20 * randn(30)
    for temperature in (1e-40, 1e-6):
        assert set(draw(logits, (temperature, 0, 1.0, 0.5, 0.5), 20)) == {int(logits.argmax())}
    assert min(draw(logits, (3e38, 0, 1.0, 0.5, 0.99), 200)) >= 0


@pytest.mark.parametrize("repetition", [0.5, 1.3, 10.0])
def test_repetition_penalty_is_that_of_transformers(repetition: float) -> None:
    for _ in range(5):
        prompt, answer = torch.randint(40, (9,)).tolist(), torch.randint(40, (7,)).tolist()
        logits = 2 * randn(40)
        processor = RepetitionPenaltyLogitsProcessor(repetition)
        expected = processor(torch.tensor([prompt + answer]), logits[None].clone())[0]
        assert_close(
            reference_sampling.penalized(logits, prompt, answer, repetition), expected, atol=1e-5
        )
        off = (1.0, 0, 1.0, 0.0, 1.0)
        drawn = draw(logits, off, 300, repeated(300, prompt, answer, repetition))
        assert_inverts(drawn, expected.double().softmax(-1))


def test_presence_and_frequency_count_the_answer_alone() -> None:
    """OpenAI's formula: logit - count · frequency - (count > 0) · presence."""
    prompt, answer = [1, 2, 2], [2, 5, 5, 5]
    logits = randn(8)
    counts = torch.tensor([0, 0, 1, 0, 0, 3, 0, 0])
    expected = logits - counts * 0.75 - (counts > 0) * -0.5
    actual = reference_sampling.penalized(logits, prompt, answer, presence=-0.5, frequency=0.75)
    assert_close(actual, expected, atol=1e-5)
    penalties = repeated(300, prompt, answer, presence=-0.5, frequency=0.75)
    drawn = draw(logits, (1.0, 0, 1.0, 0.0, 1.0), 300, penalties)
    assert_inverts(drawn, expected.double().softmax(-1))


def test_bias_is_that_of_transformers() -> None:
    bias = {0: 2.5, 3: -4.0, 39: 0.75}
    logits = randn(40)
    processor = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    expected = processor(torch.tensor(IDS), logits[None].clone())[0]
    assert_close(reference_sampling.penalized(logits, [], [], bias=bias), expected, atol=1e-5)
    drawn = draw(logits, (1.0, 0, 1.0, 0.0, 1.0), 300, biases=repeated_biases(300, bias))
    assert_inverts(drawn, expected.double().softmax(-1))


@pytest.mark.parametrize("filters", [*FILTERS, (0.0, 0, 1.0, 0.0, 1.0), (1.0, 250, 1.0, 0.0, 1.0)])
def test_logits_of_minus_infinity_are_as_if_their_tokens_were_not_there(
    filters: tuple[float, int, float, float, float],
) -> None:
    """Also where a penalty or a bias tries to lift them."""
    logits, forbidden = 3 * randn(200), torch.full((100,), -math.inf)
    padded = torch.cat([logits, forbidden])
    lifts = {
        "penalties": repeated(300, [205, 3], [205, 3], 0.5, -2.0, -2.0),
        "biases": repeated_biases(300, {205: 50.0, 3: 1.0}),
    }
    without = {
        "penalties": repeated(300, [3], [3], 0.5, -2.0, -2.0),
        "biases": repeated_biases(300, {3: 1.0}),
    }
    assert draw(padded, filters, 300) == draw(logits, filters, 300)
    assert draw(padded, filters, 300, **lifts) == draw(logits, filters, 300, **without)


def test_a_bias_of_minus_infinity_is_the_mask_of_min_new_tokens() -> None:
    logits = randn(20)
    processor = MinNewTokensLengthLogitsProcessor(4, 2, [3, 7], device=str(DEVICE))
    expected = processor(torch.tensor(IDS), logits[None].clone())[0]
    biases = repeated_biases(300, {3: -math.inf, 7: -math.inf})
    drawn = draw(logits, (1.0, 0, 1.0, 0.0, 1.0), 300, biases=biases)
    assert_inverts(drawn, expected.double().softmax(-1))


def test_everything_together_in_order_is_the_reference() -> None:
    filters = (0.8, 25, 0.95, 0.02, 0.9)
    bias = {1: 3.0, 2: -1.0, 8: -math.inf}
    for _ in range(10):
        prompt, answer = torch.randint(40, (9,)).tolist(), torch.randint(40, (7,)).tolist()
        logits = 2 * randn(40)
        settings = (1.4, 0.6, 0.3)
        scores = reference_sampling.penalized(logits, prompt, answer, *settings, bias)
        drawn = draw(
            logits,
            filters,
            100,
            repeated(100, prompt, answer, *settings),
            repeated_biases(100, bias),
        )
        assert_inverts(drawn, reference_sampling.distribution(scores, *filters))


def test_greedy_takes_the_best_after_penalties_and_biases() -> None:
    filters = (0.0, 5, 0.5, 0.5, 0.5)
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0])
    assert draw(logits, filters, 1) == [0]
    assert draw(logits, filters, 1, repeated(1, [0], [])) == [0]
    assert draw(logits, filters, 1, repeated(1, [0], [], repetition=2.0)) == [1]
    assert draw(logits, filters, 1, repeated(1, [0], [0, 1], presence=2.0)) == [0]
    assert draw(logits, filters, 1, repeated(1, [], [0, 0, 1], frequency=1.0)) == [0]
    assert draw(logits, filters, 1, repeated(1, [], [0, 0, 0, 1], frequency=1.0)) == [1]
    assert draw(logits, filters, 1, biases=repeated_biases(1, {3: 3.5})) == [3]


def test_a_row_with_every_token_forbidden_is_marked() -> None:
    biases = repeated_biases(1, {0: -math.inf, 1: -math.inf})
    assert draw(torch.zeros(2), (1.0, 0, 1.0, 0.0, 1.0), 1, biases=biases) == [-1]


def test_logprobs_stay_those_of_the_raw_logits() -> None:
    logits, logprobs = randn(1, 50), torch.empty(1)
    ids = torch.empty(1, dtype=torch.int32)
    ops.sample(
        logits, torch.ones(1), i32(0), torch.ones(1), torch.zeros(1, dtype=torch.int64), i32(0),
        i32(0), ids, logprobs, min_p=torch.tensor([0.1]), typical_p=torch.tensor([0.5]),
        penalties=repeated(1, [4], [5], 1.5, 1.0, 1.0), biases=repeated_biases(1, {9: 20.0}),
        workspace=sample_workspace(logits),
    )  # fmt: skip
    assert ids.item() == 9
    assert_close(logprobs, logits.double().log_softmax(-1)[0, [9]], atol=4e-6)
