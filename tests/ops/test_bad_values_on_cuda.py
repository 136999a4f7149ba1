"""Index tensors on CUDA, which nobody looks into: a bad value spoils its own row and nothing else.

`attention` has the same in `test_attention_on_cuda`, and `qkv_rope` in `test_cuda_gemm`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from devices import BACKEND
from op_tensors import i32, poisoned, randn, sample_workspace
from phi3svc import ops

pytestmark = pytest.mark.skipif(BACKEND == "cpu", reason="a CPU looks, and raises")

NUM_ROWS, WIDTH, VOCAB_SIZE = 4, 40, 70
BIG = 2**31 - 1
OTHERS = [0, 2, 3]
"""Rows that nothing is wrong with."""


def assert_row_1_is_spoilt(spoilt: Tensor, clean: Tensor) -> None:
    assert spoilt[1].isnan().all()
    assert_bitwise_equal(spoilt[OTHERS], clean[OTHERS])


@pytest.mark.parametrize("bad", [-1, VOCAB_SIZE, BIG, -BIG])
@pytest.mark.parametrize("packed", [False, True])
def test_embedding_of_no_token(bad: int, packed: bool, dtype: torch.dtype) -> None:
    weight = randn(VOCAB_SIZE, WIDTH, dtype=dtype)
    table = ops.pack_linear(weight) if packed else weight
    token_ids = i32(3, 5, VOCAB_SIZE - 1, 0)
    clean, spoilt = (poisoned(NUM_ROWS, WIDTH, dtype=torch.float32) for _ in range(2))
    ops.embedding(token_ids, table, clean)
    token_ids[1] = bad
    ops.embedding(token_ids, table, spoilt)
    assert_row_1_is_spoilt(spoilt, clean)


@pytest.mark.parametrize("bad", [-1, 6, BIG, -BIG])
@pytest.mark.parametrize("is_small", [False, True])
def test_a_head_over_no_row(bad: int, is_small: bool, dtype: torch.dtype) -> None:
    h, norm_weight = randn(6, WIDTH), randn(WIDTH, dtype=dtype)
    norm_bias = randn(WIDTH, dtype=dtype) if is_small else None
    weight = ops.pack_linear(randn(VOCAB_SIZE, WIDTH, dtype=dtype))
    rows = i32(5, 2, 2, 0)

    def logits() -> Tensor:
        out = poisoned(NUM_ROWS, VOCAB_SIZE, dtype=torch.float32)
        normed = poisoned(NUM_ROWS, WIDTH, dtype=dtype)
        ops.lm_head(h, rows, norm_weight, 1e-5, weight, normed, out, norm_bias)
        return out

    clean = logits()
    rows[1] = bad
    assert_row_1_is_spoilt(logits(), clean)


@pytest.mark.parametrize("bad", [-1, VOCAB_SIZE, BIG, -BIG])
def test_logprobs_of_no_token(bad: int) -> None:
    logits, token_ids = randn(NUM_ROWS, VOCAB_SIZE), i32(0, 5, VOCAB_SIZE - 1, 8)

    def logprobs() -> tuple[Tensor, Tensor, Tensor]:
        of_token = poisoned(NUM_ROWS, dtype=torch.float32)
        top_ids = poisoned(NUM_ROWS, 3, dtype=torch.int32)
        of_top = poisoned(NUM_ROWS, 3, dtype=torch.float32)
        ops.logprobs(logits, token_ids, of_token, top_ids, of_top)
        return of_token, top_ids, of_top

    clean = logprobs()
    token_ids[1] = bad
    spoilt = logprobs()
    assert_row_1_is_spoilt(spoilt[0], clean[0])
    for part, clean_part in zip(spoilt[1:], clean[1:], strict=True):
        assert_bitwise_equal(part, clean_part)


def sampling() -> dict[str, Any]:
    """Tensors of a call of `sample` in which every row has penalties and biases."""
    return {
        "temperature": torch.tensor([0.0, 0.5, 1.0, 2.0]),
        "top_k": i32(0, 5, 9, 20),
        "top_p": torch.tensor([1.0, 0.5, 0.9, 0.7]),
        "seeds": torch.tensor([1, -1, 5, 7]),
        "sequence_indices": i32(0, 1, 2, 3),
        "positions": i32(5, 6, 7, 8),
        "min_p": torch.tensor([0.0, 0.1, 0.0, 0.01]),
        "typical_p": torch.tensor([1.0, 0.9, 0.9, 1.0]),
        "repetition": torch.tensor([1.0, 0.5, 2.0, 1.5]),
        "presence": torch.tensor([0.0, 1.0, -1.0, 0.5]),
        "frequency": torch.tensor([0.0, 1.0, -1.0, 0.5]),
        "seen_starts": i32(0, 2, 4, 5, 6),
        "seen_ids": i32(4, 0, 1, 9, VOCAB_SIZE - 1, 7),
        "seen_counts": i32(0, 1, 2, 0, 1, 3),
        "bias_starts": i32(0, 1, 3, 4, 5),
        "bias_ids": i32(0, 9, VOCAB_SIZE - 1, 3, 5),
        "bias_values": torch.tensor([1.0, -math.inf, 2.0, 1.0, -1.0]),
    }


def sample(logits: Tensor, tensors: dict[str, Any]) -> tuple[Tensor, Tensor]:
    given = dict(tensors)
    seen = [given.pop(f"seen_{name}") for name in ("starts", "ids", "counts")]
    bias = [given.pop(f"bias_{name}") for name in ("starts", "ids", "values")]
    rates = [given.pop(name) for name in ("repetition", "presence", "frequency")]
    ids = poisoned(NUM_ROWS, dtype=torch.int32)
    logprobs = poisoned(NUM_ROWS, dtype=torch.float32)
    ops.sample(
        logits,
        **given,
        out_ids=ids,
        out_logprobs=logprobs,
        penalties=ops.Penalties(*rates, *seen),
        biases=ops.Biases(*bias),
        workspace=sample_workspace(logits),
    )
    return ids, logprobs


@pytest.mark.parametrize(
    ("name", "index", "bad"),
    [
        *(("temperature", 1, bad) for bad in (-0.5, math.nan, math.inf)),
        ("top_k", 1, -1),
        *(("top_p", 1, bad) for bad in (0.0, -0.1, 1.01, math.nan)),
        ("sequence_indices", 1, -1),
        ("positions", 1, -1),
        *(("min_p", 1, bad) for bad in (-0.1, 1.01, math.nan)),
        *(("typical_p", 1, bad) for bad in (0.0, 1.01, math.nan)),
        *(("repetition", 1, bad) for bad in (0.0, -1.0, math.nan, math.inf)),
        *(("presence", 1, bad) for bad in (math.nan, math.inf)),
        *(("frequency", 1, bad) for bad in (math.nan, -math.inf)),
        *(("seen_ids", 3, bad) for bad in (-1, VOCAB_SIZE, BIG, -BIG)),
        ("seen_counts", 2, -1),
        *(("bias_ids", 2, bad) for bad in (-1, VOCAB_SIZE, BIG, -BIG)),
        *(("bias_values", 1, bad) for bad in (math.nan, math.inf)),
    ],
)
def test_sample_with_a_bad_setting(name: str, index: int, bad: float) -> None:
    logits, tensors = randn(NUM_ROWS, VOCAB_SIZE), sampling()
    clean_ids, clean_logprobs = sample(logits, tensors)
    assert (clean_ids >= 0).all()
    tensors[name][index] = bad
    ids, logprobs = sample(logits, tensors)
    assert ids[1] == -1
    assert_row_1_is_spoilt(logprobs, clean_logprobs)
    assert_bitwise_equal(ids[OTHERS], clean_ids[OTHERS])


@pytest.mark.parametrize("name", ["seen_starts", "bias_starts"])
@pytest.mark.parametrize("bad", [-1, -BIG, 6, 7, BIG])
def test_sample_with_starts_that_do_not_rise(name: str, bad: int) -> None:
    """Of the two rows that a start is between, both may suffer."""
    logits, tensors = randn(NUM_ROWS, VOCAB_SIZE), sampling()
    clean_ids, clean_logprobs = sample(logits, tensors)
    tensors[name][2] = bad
    ids, logprobs = sample(logits, tensors)
    assert -1 in ids[1:3]
    assert_bitwise_equal(ids[[0, 3]], clean_ids[[0, 3]])
    assert_bitwise_equal(logprobs[[0, 3]], clean_logprobs[[0, 3]])
