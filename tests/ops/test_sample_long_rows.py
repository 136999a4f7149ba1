"""`sample` and `logprobs` of rows that no block of memory holds, with logits that are hard to tell
apart: equal, huge, or the best of them side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import reference_sampling
from compare import assert_bitwise_equal
from op_tensors import randn
from phi3svc import ops
from test_sample_settings import assert_inverts, draw

pytestmark = pytest.mark.usefixtures("isa")

VOCAB_SIZE = 9001

# temperature, top_k, top_p, min_p, typical_p
FILTERS = [
    (1.0, 0, 0.9, 0.0, 1.0),
    (1.0, 40, 1.0, 0.0, 1.0),
    (1.0, 2000, 1.0, 0.0, 1.0),
    (1.0, 5000, 0.5, 0.0, 1.0),
    (1.0, 0, 1.0, 0.0, 0.5),
    (1.3, 0, 0.99, 0.01, 0.9),
]


def row(name: str) -> Tensor:
    ids = torch.arange(VOCAB_SIZE)
    rising = 8.0 / VOCAB_SIZE * ids
    every_4096th = torch.where(ids % 4096 == 0, 30.0, 0.0)
    rows = {
        "rising": rising,
        "falling": -rising,
        "flat": 1e-3 * randn(VOCAB_SIZE),
        "peaked": torch.where(ids < 3, 9.0, 0.0) + 0.1 * randn(VOCAB_SIZE),
        "every 4096th": randn(VOCAB_SIZE) + every_4096th,
        "mostly -inf": torch.where(ids % 5 == 0, randn(VOCAB_SIZE), -torch.inf),
    }
    return rows[name]


NAMES = ["rising", "falling", "flat", "peaked", "every 4096th", "mostly -inf"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filters", FILTERS)
def test_filters_draw_from_the_reference(
    name: str, filters: tuple[float, int, float, float, float]
) -> None:
    logits = row(name)
    assert_inverts(draw(logits, filters, 4), reference_sampling.distribution(logits, *filters))


@pytest.mark.parametrize("name", NAMES)
def test_the_likeliest_come_in_order(name: str) -> None:
    logits = row(name)[None]
    token_ids = torch.zeros(1, dtype=torch.int32)
    for k in (20, 2000, VOCAB_SIZE):
        top_ids, of_top = torch.empty(1, k, dtype=torch.int32), torch.empty(1, k)
        ops.logprobs(logits, token_ids, torch.empty(1), top_ids, of_top)
        _, expected, _ = reference_sampling.logprobs(logits, token_ids, k)
        assert_bitwise_equal(top_ids, expected)


@pytest.mark.parametrize(
    ("filters", "num_kept"),
    [
        ((1.0, 0, 1.0, 0.0, 1.0), VOCAB_SIZE),
        ((1.0, 10, 1.0, 0.0, 1.0), VOCAB_SIZE),
        ((1.0, 0, 0.5, 0.0, 1.0), 4501),
        ((1.0, 0, 1.0, 1.0, 1.0), VOCAB_SIZE),
        ((1.0, 0, 1.0, 0.0, 0.5), VOCAB_SIZE),
        ((1.0, 7, 0.5, 0.5, 0.5), 4501),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1e30, 3e38])
def test_equal_logits_are_kept_together_or_by_rising_id(
    filters: tuple[float, int, float, float, float], num_kept: int, value: float
) -> None:
    drawn = draw(torch.full((VOCAB_SIZE,), value), filters, 4)
    uniform = [reference_sampling.uniform(99, 0, position) for position in range(4)]
    assert drawn == [int(u * num_kept) for u in uniform]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("scale", [1e30, 1e38])
def test_huge_logits_leave_the_best_alone(
    filters: tuple[float, int, float, float, float], scale: float
) -> None:
    logits = scale * randn(VOCAB_SIZE).clamp(-3, 3)
    best = int(logits.argmax())
    logits[best] = 3.2 * scale
    assert draw(logits, filters, 2) == [best, best]
