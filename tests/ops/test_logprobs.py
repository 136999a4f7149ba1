"""`logprobs`: log softmax in float64, by falling logit and rising id, in the bits of `sample`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference_sampling
from compare import assert_bitwise_equal, assert_close
from op_tensors import Guarded, i32, misaligned, randn, sample_workspace
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

VOCAB_SIZES = [1, 7, 1000, 32064]


def logprobs(logits: Tensor, token_ids: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs [n], top ids [n, k] and top logprobs [n, k], written where they belong alone."""
    num_rows = len(logits)
    of_tokens = Guarded(num_rows, dtype=torch.float32)
    top_ids = torch.full((num_rows + 2, k), -7, dtype=torch.int32)
    of_top = Guarded(num_rows, k, dtype=torch.float32)
    ops.logprobs(logits, token_ids, of_tokens.out, top_ids[1:-1], of_top.out)
    assert (top_ids[[0, -1]] == -7).all(), "wrote outside of the output"
    return of_tokens.checked(), top_ids[1:-1], of_top.checked()


def random_ids(num_rows: int, vocab_size: int) -> Tensor:
    return torch.randint(vocab_size, (num_rows,), dtype=torch.int32)


def assert_matches_reference(logits: Tensor, token_ids: Tensor, k: int) -> None:
    of_tokens, top_ids, of_top = logprobs(logits, token_ids, k)
    exact_of_tokens, exact_ids, exact_of_top = reference_sampling.logprobs(logits, token_ids, k)
    assert_bitwise_equal(top_ids, exact_ids)
    assert_close(of_tokens, exact_of_tokens, atol=4e-6, rtol=4e-6)
    assert_close(of_top, exact_of_top, atol=4e-6, rtol=4e-6)


@pytest.mark.parametrize("num_rows", [0, 1, 5])
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("k", [0, 1, 20, "V"])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_logprobs_match_float64(num_rows: int, vocab_size: int, k: int | str, scale: float) -> None:
    num_top = vocab_size if isinstance(k, str) else min(k, vocab_size)
    logits = scale * randn(num_rows, vocab_size)
    assert_matches_reference(logits, random_ids(num_rows, vocab_size), num_top)


@pytest.mark.parametrize("k", [1, 2, 20, 999, 1000])
def test_of_equal_logits_the_lower_id_comes_first(k: int) -> None:
    """Six values over a thousand tokens, both zeros among them, and rows of one value."""
    logits = torch.randint(-2, 4, (50, 1000)).float()
    logits[logits == 3] = -0.0
    logits[::7] = 1.5
    assert_matches_reference(logits, random_ids(50, 1000), k)


@pytest.mark.parametrize("k", [1, 2, 5, 64])
def test_rising_and_falling_logits(k: int) -> None:
    rising = torch.arange(64.0)
    assert_matches_reference(torch.stack([rising, rising.flip(0)]), i32(5, 63), k)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("scale", [0.01, 3.0, 200.0])
def test_a_logprob_is_to_the_bit_what_sample_reports(
    temperature: float, vocab_size: int, scale: float
) -> None:
    num_rows = 40 if vocab_size < 10_000 else 4
    logits = scale * randn(num_rows, vocab_size)
    drawn = torch.empty(num_rows, dtype=torch.int32)
    expected = torch.empty(num_rows)
    ops.sample(
        logits,
        torch.full((num_rows,), temperature),
        torch.zeros(num_rows, dtype=torch.int32),
        torch.ones(num_rows),
        torch.arange(num_rows),
        torch.zeros(num_rows, dtype=torch.int32),
        torch.arange(num_rows, dtype=torch.int32),
        drawn,
        expected,
        workspace=sample_workspace(logits),
    )
    found, top_ids, of_top = logprobs(logits, drawn, vocab_size)
    assert_bitwise_equal(found, expected)
    assert_bitwise_equal(of_top[top_ids == drawn[:, None]], expected)


def test_minus_infinity_comes_last_and_stays_minus_infinity() -> None:
    logits = torch.full((3, 33), -math.inf)
    logits[:, [3, 17, 32]] = torch.tensor([0.0, 1.0, -2.0])
    assert_matches_reference(logits, i32(17, 0, 32), 3)
    of_tokens, top_ids, of_top = logprobs(logits, i32(17, 0, 32), 5)
    assert top_ids.tolist() == [[17, 3, 32, 0, 1]] * 3
    assert of_top[:, :3].isfinite().all()
    assert (of_top[:, 3:] == -math.inf).all()
    assert of_tokens.isinf().tolist() == [False, True, False]


@pytest.mark.parametrize("k", [0, 3, 50])
def test_a_spoilt_row_is_marked_and_the_others_are_unaffected(k: int) -> None:
    logits, token_ids = randn(8, 50), random_ids(8, 50)
    clean = logprobs(logits, token_ids, k)
    logits[1, 49] = math.nan
    logits[3] = -math.inf
    logits[4, 0] = math.inf
    logits[6] = math.nan
    of_tokens, top_ids, of_top = logprobs(logits, token_ids, k)
    spoilt, kept = [1, 3, 4, 6], [0, 2, 5, 7]
    assert of_tokens[spoilt].isnan().all()
    assert (top_ids[spoilt] == -1).all()
    assert of_top[spoilt].isnan().all()
    for found, expected in zip((of_tokens, top_ids, of_top), clean, strict=True):
        assert_bitwise_equal(found[kept], expected[kept])


def test_rows_may_be_strided() -> None:
    logits, token_ids = randn(9, 35), random_ids(9, 35)
    plain = logprobs(logits, token_ids, 4)
    for rows in (misaligned(logits), logits.repeat_interleave(2, dim=0)[::2]):
        for found, expected in zip(logprobs(rows, token_ids, 4), plain, strict=True):
            assert_bitwise_equal(found, expected)


def test_more_of_the_top_extends_what_less_shows() -> None:
    logits, token_ids = randn(4, 300), random_ids(4, 300)
    _, all_ids, of_all = logprobs(logits, token_ids, 300)
    for k in (0, 1, 19, 299):
        _, top_ids, of_top = logprobs(logits, token_ids, k)
        assert_bitwise_equal(top_ids, all_ids[:, :k])
        assert_bitwise_equal(of_top, of_all[:, :k])


def test_more_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(ops.Error, match=r"out_top_ids dim 1 \(k\) is 8, expected 0\.\.7"):
        logprobs(randn(2, 7), i32(0, 6), 8)
