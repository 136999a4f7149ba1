"""`embedding` copies, widens and scales: every result is exact, or one float32 product."""

from __future__ import annotations

import math

import pytest
import torch

import reference
from compare import assert_bitwise_equal
from op_tensors import NUM_ROWS, Guarded, randn
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("isa")

VOCAB_SIZE = 37


def table(width: int, dtype: torch.dtype) -> torch.Tensor:
    values = randn(VOCAB_SIZE, width, dtype=dtype)
    values[3, 0], values[4, 0], values[5, 0] = -0.0, math.inf, 1e-40
    return values


@pytest.mark.parametrize("num_tokens", NUM_ROWS)
@pytest.mark.parametrize("packed", [False, True])
def test_embedding_copies_rows(num_tokens: int, packed: bool, dtype: torch.dtype) -> None:
    weight = table(48, dtype)
    token_ids = torch.randint(VOCAB_SIZE, (num_tokens,), dtype=torch.int32)
    buffer = Guarded(num_tokens, 48, dtype=torch.float32)
    ops.embedding(token_ids, ops.pack_linear(weight) if packed else weight, buffer.out)
    assert_bitwise_equal(buffer.checked(), reference.embedding(token_ids, weight).float())


@pytest.mark.parametrize("width", [1, 15, 16, 17, 96])
@pytest.mark.parametrize("packed", [False, True])
def test_embedding_copies_every_row_of_any_width(
    width: int, packed: bool, dtype: torch.dtype
) -> None:
    weight = table(width, dtype)
    token_ids = torch.arange(VOCAB_SIZE, dtype=torch.int32).flip(0)
    buffer = Guarded(VOCAB_SIZE, width, dtype=torch.float32)
    ops.embedding(token_ids, ops.pack_linear(weight) if packed else weight, buffer.out)
    assert_bitwise_equal(buffer.checked(), weight.float().flip(0))


@pytest.mark.parametrize("scale", [10.0, 0.5, 0.3])
@pytest.mark.parametrize("packed", [False, True])
def test_embedding_scales_in_float32(scale: float, packed: bool, dtype: torch.dtype) -> None:
    weight = table(33, dtype)
    token_ids = torch.arange(VOCAB_SIZE, dtype=torch.int32)
    buffer = Guarded(VOCAB_SIZE, 33, dtype=torch.float32)
    ops.embedding(token_ids, ops.pack_linear(weight) if packed else weight, buffer.out, scale)
    expected = reference.embedding(token_ids, weight.float(), scale)
    assert_bitwise_equal(buffer.checked(), expected)
