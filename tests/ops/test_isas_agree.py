"""avx2 and avx512 compute the same sixteen virtual lanes, so they agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from compare import assert_bitwise_equal
from phi3svc import ops
from test_batch_invariance import OPS, RowOp, every_row


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(ops.available_isas()), reason="this CPU has no avx512"
)
@pytest.mark.parametrize("make", OPS, ids=lambda make: make.__name__)
def test_avx2_and_avx512_give_equal_bits(
    make: Callable[[torch.dtype], RowOp], dtype: torch.dtype
) -> None:
    before = ops.isa()
    op = make(dtype)
    try:
        ops.set_isa("avx2")
        _, expected = every_row(op)
        ops.set_isa("avx512")
        _, found = every_row(op)
    finally:
        ops.set_isa(before)
    for a, b in zip(found, expected, strict=True):
        assert_bitwise_equal(a, b)
