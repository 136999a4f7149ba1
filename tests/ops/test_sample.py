"""`sample`: the draw is transformers' distribution at Philox's uniform number."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import reference_sampling
from compare import assert_close
from op_tensors import i32, misaligned, poisoned, randn, sample_workspace
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

# Random123's kat_vectors for philox4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def sample(
    logits: Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    seeds: int | Tensor = 0,
    sequence_indices: int | Tensor = 0,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids and logprobs; scalars hold for every row, and each row is its own position."""
    num_rows = len(logits)

    def rows(value: float | Tensor, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(value, dtype=dtype).expand(num_rows).contiguous()

    ids = poisoned(num_rows, dtype=torch.int32)
    logprobs = poisoned(num_rows, dtype=torch.float32)
    ops.sample(
        logits,
        rows(temperature, torch.float32),
        rows(top_k, torch.int32),
        rows(top_p, torch.float32),
        rows(seeds, torch.int64),
        rows(sequence_indices, torch.int32),
        torch.arange(num_rows, dtype=torch.int32) if positions is None else positions,
        ids,
        logprobs,
        workspace=sample_workspace(logits),
    )
    return ids, logprobs


def processed(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Probabilities [V] that transformers would draw from."""
    scores = TemperatureLogitsWarper(temperature)(None, logits[None].clone())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores.double().softmax(-1)[0]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_reference_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert reference_sampling.philox4x32_10(counter, key) == expected


def test_sample_draws_by_the_uniform_number_of_its_counter() -> None:
    """Over 4096 equal logits the id is floor(4096·u), so it shows 12 bits of every u."""
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 0x243F6A8885A308D3, 2**32, 2**32 - 1, 12345]
    cases = [
        (seed, sequence_idx, position)
        for seed in seeds
        for sequence_idx in (0, 1, 7, 2**31 - 1)
        for position in (0, 1, 2, 131071, 2**31 - 1)
    ]
    seed, sequence_idx, position = torch.tensor(cases).T
    logits = torch.full((len(cases), 4096), 0.25)
    ids, logprobs = sample(
        logits, seeds=seed, sequence_indices=sequence_idx.int(), positions=position.int()
    )
    assert ids.tolist() == [int(4096 * reference_sampling.uniform(*case)) for case in cases]
    assert ids[0] == 0x6627E8D5 >> 20
    assert_close(logprobs, torch.full((len(cases),), -math.log(4096)), rtol=1e-6)


def test_a_draw_on_the_edge_of_two_tokens_takes_the_upper() -> None:
    """u·total equal to a cumulative weight: that token's share ends before it."""
    position, u = next(
        (position, u)
        for position in itertools.count(1)
        if (4096 * (u := reference_sampling.uniform(0, 0, position))).is_integer()
    )
    ids, _ = sample(torch.zeros(1, 4096), positions=i32(position))
    assert ids.item() == 4096 * u


SETTINGS = [
    (1.0, 0, 1.0),
    (0.7, 0, 1.0),
    (1.7, 5, 1.0),
    (1.0, 1, 1.0),
    (1.0, 1000, 1.0),
    (1.0, 0, 0.9),
    (0.8, 0, 0.5),
    (1.0, 0, 1e-6),
    (1.3, 7, 0.8),
    (0.6, 40, 0.95),
    (1.0, 50, 0.999),
    (0.05, 0, 0.99),
    (50.0, 0, 0.7),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocab_size", [1, 2, 37, 1000])
def test_reference_distribution_is_that_of_transformers(
    settings: tuple[float, int, float], vocab_size: int
) -> None:
    for _ in range(5):
        logits = 3 * randn(vocab_size)
        assert_close(
            reference_sampling.distribution(logits, *settings),
            processed(logits, *settings),
            atol=2e-6,
        )


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocab_size", [1, 2, 17, 63, 64, 65, 255, 256, 257, 1000, 32064])
def test_sample_inverts_the_distribution_at_u(
    settings: tuple[float, int, float], vocab_size: int
) -> None:
    num_draws = 64
    logits = 3 * randn(vocab_size)
    ids, _ = sample(logits.repeat(num_draws, 1), *settings, seeds=99, sequence_indices=3)
    probabilities = reference_sampling.distribution(logits, *settings)
    cumulative = probabilities.cumsum(-1)
    for position, drawn in enumerate(ids.tolist()):
        u = reference_sampling.uniform(99, 3, position)
        assert probabilities[drawn] > 0, f"drew {drawn}, which is filtered out"
        assert cumulative[drawn] > u - 1e-6, f"u = {u} lies after token {drawn}"
        before = cumulative[drawn] - probabilities[drawn]
        assert before <= u + 1e-6, f"u = {u} lies before token {drawn}"


@pytest.mark.parametrize("settings", [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.5, 6, 1.0), (1.2, 10, 0.8)])
def test_sample_draws_exactly_the_tokens_transformers_keeps(
    settings: tuple[float, int, float],
) -> None:
    num_draws = 3000
    logits = 0.6 * randn(16)  # every kept token is likely enough to come up
    ids, _ = sample(logits.repeat(num_draws, 1), *settings, seeds=7)
    kept = processed(logits, *settings)
    assert kept[kept > 0].min() > 20 / num_draws
    assert sorted(set(ids.tolist())) == kept.nonzero().flatten().tolist()


@pytest.mark.parametrize("settings", [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.5, 20, 1.0)])
def test_sample_frequencies_pass_a_chi_square_test(settings: tuple[float, int, float]) -> None:
    num_draws = 20_000
    logits = randn(40)
    for by_position in (True, False):
        counter = torch.arange(num_draws, dtype=torch.int32)
        ids, _ = sample(
            logits.repeat(num_draws, 1),
            *settings,
            seeds=5 if by_position else counter.long() * 1_000_003,
            positions=counter if by_position else torch.zeros_like(counter),
        )
        expected = num_draws * processed(logits, *settings)
        likely = expected > 5
        observed = torch.bincount(ids.long(), minlength=40).double()
        statistic = ((observed - expected)[likely] ** 2 / expected[likely]).sum().item()
        freedom = int(likely.sum()) - 1
        # Wilson and Hilferty's cube-root normal; four standard deviations.
        z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(
            2 / (9 * freedom)
        )
        assert abs(z) < 4, f"chi-square {statistic:.1f} with {freedom} degrees of freedom"


def test_neighbouring_counters_draw_independently() -> None:
    """Positions, sequence indices and seeds that differ by one give unrelated draws."""
    num_draws = 4000
    logits = torch.zeros(num_draws, 2)
    counter = torch.arange(num_draws, dtype=torch.int32)
    base, _ = sample(logits, positions=counter)
    for other in (
        sample(logits, positions=counter + 1)[0],
        sample(logits, positions=counter, sequence_indices=1)[0],
        sample(logits, positions=counter, seeds=1)[0],
        sample(logits, positions=counter, seeds=2**32)[0],
    ):
        agreement = (base == other).double().mean().item()
        assert abs(agreement - 0.5) < 4 * 0.5 / math.sqrt(num_draws)


def test_top_k_keeps_ties_of_the_kth() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, 1.0, -1.0, 1.0, 0.5]).repeat(500, 1)
    ids, _ = sample(logits, top_k=2)
    assert set(ids.tolist()) == {1, 2, 3, 5}


@pytest.mark.parametrize("vocab_size", [10, 100, 300, 1000])
def test_top_p_among_equal_tokens_keeps_the_lowest_ids(vocab_size: int) -> None:
    ids, _ = sample(torch.zeros(5000, vocab_size), top_p=0.5)
    assert set(ids.tolist()) == set(range(vocab_size // 2))


def test_top_k_counts_before_top_p() -> None:
    """Among the two best, 0.62 of the mass is the first's: top-p 0.6 then keeps it alone."""
    logits = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]).repeat(300, 1)
    ids, _ = sample(logits, top_k=2, top_p=0.6)
    assert set(ids.tolist()) == {0}


@pytest.mark.parametrize("vocab_size", [1, 2, 16, 17, 1000, 32064])
def test_greedy_takes_the_lowest_of_equal_maxima(vocab_size: int) -> None:
    logits = torch.rand(20, vocab_size)
    expected = []
    for row in logits:
        tied = torch.randint(vocab_size, (3,))
        row[tied] = 2.0
        expected.append(int(tied.min()))
    ids, logprobs = sample(logits, temperature=0.0, top_k=3, top_p=0.5)
    assert ids.tolist() == expected
    exact = logits.double().log_softmax(-1).gather(1, ids.long()[:, None])[:, 0]
    assert_close(logprobs, exact, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("vocab_size", [1, 2, 16, 17, 333, 32064])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_logprob_is_that_of_the_raw_logits(vocab_size: int, scale: float) -> None:
    logits = scale * randn(8, vocab_size)
    ids, logprobs = sample(logits, temperature=0.5, top_k=3, top_p=0.9)
    exact = logits.double().log_softmax(-1).gather(1, ids.long()[:, None])[:, 0]
    assert_close(logprobs, exact, atol=4e-6, rtol=4e-6)


def test_many_unlikely_tokens_keep_their_share() -> None:
    """32,063 tokens of 2e-6 each are 7 percent together."""
    num_draws = 300
    logits = torch.full((num_draws, 32064), -13.0)
    logits[:, 7] = 0.0
    ids, logprobs = sample(logits)
    exact = logits[0].double().log_softmax(-1)
    assert_close(logprobs, exact[ids.long()], atol=4e-7, rtol=4e-6)
    others = 1 - exact[7].exp().item()
    drawn = (ids != 7).double().mean().item()
    assert abs(drawn - others) < 4 * math.sqrt(others * (1 - others) / num_draws)


def test_minus_infinity_is_never_drawn() -> None:
    logits = torch.full((2000, 33), -math.inf)
    logits[:, [3, 17, 32]] = torch.tensor([0.0, 1.0, -2.0])
    for settings in ((1.0, 0, 1.0), (2.0, 20, 1.0), (1.0, 0, 0.999), (0.0, 0, 1.0)):
        ids, logprobs = sample(logits, *settings)
        assert set(ids.tolist()) <= {3, 17, 32}
        assert logprobs.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_spoilt_row_is_marked_and_the_others_are_drawn(temperature: float) -> None:
    logits = randn(8, 50)
    clean_ids, clean_logprobs = sample(logits, temperature, 5, 0.9)
    logits[1, 49] = math.nan
    logits[3] = -math.inf
    logits[4, 0] = math.inf
    logits[6] = math.nan
    ids, logprobs = sample(logits, temperature, 5, 0.9)
    spoilt = [1, 3, 4, 6]
    assert ids[spoilt].tolist() == [-1] * 4
    assert logprobs[spoilt].isnan().all()
    kept = [0, 2, 5, 7]
    assert ids[kept].tolist() == clean_ids[kept].tolist()
    assert logprobs[kept].tolist() == clean_logprobs[kept].tolist()


@pytest.mark.parametrize("temperature", [1e-40, 1e-30, 1e-6, 1e6, 3e38])
def test_extreme_temperatures_stay_in_range(temperature: float) -> None:
    logits = 20 * randn(200, 30)
    ids, logprobs = sample(logits, temperature)
    assert ((ids >= 0) & (ids < 30)).all()
    assert logprobs.isfinite().all()
    if temperature < 1:
        assert ids.tolist() == logits.argmax(-1).tolist()
    else:
        assert len(set(ids.tolist())) == 30


def test_a_tiny_top_p_or_top_k_of_one_is_the_argmax() -> None:
    logits = randn(100, 64)
    for settings in ((1.0, 1, 1.0), (1.0, 0, 1e-30), (3.0, 0, 1e-3)):
        assert sample(logits, *settings)[0].tolist() == logits.argmax(-1).tolist()


def test_sample_reads_strided_rows() -> None:
    logits = randn(9, 35)
    plain, strided = sample(logits), sample(misaligned(logits))
    assert plain[0].tolist() == strided[0].tolist()
    assert plain[1].tolist() == strided[1].tolist()


def test_sample_of_no_rows_does_nothing() -> None:
    ids, logprobs = sample(torch.empty(0, 10), positions=i32())
    assert ids.numel() == logprobs.numel() == 0
