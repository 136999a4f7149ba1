"""All ISAs compute the same sixteen virtual lanes, so they agree bit for bit, in every op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from compare import assert_bitwise_equal
from conftest import using_isa
from op_tensors import randn
from phi3svc import ops
from test_batch_invariance import OPS, RowOp, every_row
from weight_formats import INTEGER_FORMATS

pytestmark = pytest.mark.cpu_only

OTHERS = ops.available_isas()[1:]


@pytest.mark.parametrize("isa", OTHERS)
@pytest.mark.parametrize("make", OPS, ids=lambda make: make.__name__)
def test_an_op_has_the_bits_of_portable(
    make: Callable[[torch.dtype], RowOp], dtype: torch.dtype, isa: str
) -> None:
    op = make(dtype)
    with using_isa("portable"):
        _, expected = every_row(op)
    with using_isa(isa):
        _, found = every_row(op)
    for a, b in zip(found, expected, strict=True):
        assert_bitwise_equal(a, b)


@pytest.mark.parametrize("isa", OTHERS)
@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_packing_has_the_bytes_of_portable(format: str, isa: str) -> None:
    weight = randn(40, 700) * torch.exp(randn(40, 1))
    row_errors, expected_errors = torch.empty(40), torch.empty(40)
    with using_isa("portable"):
        expected = ops.pack_linear(weight, format, row_errors=expected_errors)
    with using_isa(isa):
        found = ops.pack_linear(weight, format, row_errors=row_errors)
    assert_bitwise_equal(found.data, expected.data)
    assert_bitwise_equal(row_errors, expected_errors)


@pytest.mark.parametrize("isa", OTHERS)
@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_packing_what_is_not_finite_has_the_bytes_of_portable(format: str, isa: str) -> None:
    weight = randn(20, 300)
    for row, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        weight[row, 7 * row] = value
    with using_isa("portable"):
        expected = ops.pack_linear(weight, format)
    with using_isa(isa):
        found = ops.pack_linear(weight, format)
    assert_bitwise_equal(found.data, expected.data)
