"""fp8 weights of CUDA, byte by byte: a scale per row, numbers rounded to nearest even."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from devices import BACKEND
from op_tensors import Guarded, poisoned, randn
from phi3svc import ops

pytestmark = pytest.mark.skipif(BACKEND == "cpu", reason="a CPU has no fp8 weights")

NUM_ROWS, WIDTH = 70, 37
LARGEST = 448.0


def weight(dtype: torch.dtype, num_rows: int = NUM_ROWS) -> Tensor:
    """Rows of every magnitude, one of them zeros."""
    rows: Tensor = randn(num_rows, WIDTH) * torch.logspace(-38, 37, num_rows)[:, None]
    rows[5] = 0
    return rows.to(dtype)


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers float8 [n, k] and scales float32 [n]."""
    largest = torch.tensor(LARGEST)  # by a number, torch multiplies with its inverse on CUDA
    scales = (rows.float().abs().amax(1) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows.float() / scales[:, None]).to(torch.float8_e4m3fn), scales


def parts(packed: ops.PackedLinear) -> tuple[Tensor, Tensor]:
    """Bytes [rows, columns] and scales [rows], both padded."""
    num_rows, columns = -(-packed.out_features // 16) * 16, -(-packed.in_features // 16) * 16
    numbers = packed.data[: num_rows * columns].view(num_rows, columns)
    return numbers, packed.data[num_rows * columns :].view(torch.float32)


def pack_qkv(rows: Tensor, format: str) -> ops.PackedLinear:
    """Three q heads and one each of k and v, of 16 dims, of which 8 are rotated."""
    return ops.pack_qkv(rows, 3, 1, 8, format)


@pytest.mark.parametrize(
    ("pack", "num_rows"),
    [(ops.pack_linear, NUM_ROWS), (ops.pack_gate_up, NUM_ROWS), (pack_qkv, 80)],
    ids=["linear", "gate_up", "qkv"],
)
def test_pack_rounds_each_row_to_its_scale(
    pack: Callable[[Tensor, str], ops.PackedLinear], num_rows: int, dtype: torch.dtype
) -> None:
    rows = weight(dtype, num_rows)
    packed = pack(rows, "fp8")
    numbers, scales = parts(packed)
    order = pack(torch.arange(num_rows).float()[:, None], "float32").data[:num_rows, 0].long()
    expected_numbers, expected_scales = quantized(rows[order])
    assert_bitwise_equal(scales[:num_rows], expected_scales)
    assert (numbers[:num_rows, :WIDTH] == expected_numbers.view(torch.uint8)).all()
    assert not numbers[num_rows:].any()
    assert not numbers[:, WIDTH:].any()
    assert not packed.is_integer


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [(ops.pack_linear, ops.unpack_linear), (ops.pack_gate_up, ops.unpack_gate_up)],
    ids=["linear", "gate_up"],
)
def test_unpack_gives_what_the_numbers_stand_for(
    pack: Callable[[Tensor, str], ops.PackedLinear],
    unpack: Callable[[ops.PackedLinear], Tensor],
    dtype: torch.dtype,
) -> None:
    rows = weight(dtype)
    numbers, scales = quantized(rows)
    assert_bitwise_equal(unpack(pack(rows, "fp8")), numbers.float() * scales[:, None])
    assert_bitwise_equal(unpack(pack(rows, str(dtype).removeprefix("torch."))), rows.float())


@pytest.mark.parametrize("pack", [ops.pack_linear, ops.pack_gate_up], ids=["linear", "gate_up"])
def test_row_errors_are_relative_to_the_mean_magnitude(
    pack: Callable[..., ops.PackedLinear], dtype: torch.dtype
) -> None:
    rows = weight(dtype)
    row_errors = poisoned(NUM_ROWS, dtype=torch.float32)
    pack(rows, "fp8", row_errors=row_errors)
    numbers, scales = quantized(rows)
    exact, stored = rows.double(), numbers.double() * scales.double()[:, None]
    expected = (stored - exact).square().mean(1).sqrt() / exact.abs().mean(1)
    assert row_errors[5] == 0
    kept = torch.arange(NUM_ROWS) != 5
    assert_close(row_errors[kept], expected[kept], rtol=1e-5)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_nan(number: float, dtype: torch.dtype) -> None:
    rows = weight(dtype)
    clean = ops.unpack_linear(ops.pack_linear(rows, "fp8"))
    rows[3, 7] = number
    row_errors = poisoned(NUM_ROWS, dtype=torch.float32)
    unpacked = ops.unpack_linear(ops.pack_linear(rows, "fp8", row_errors=row_errors))
    assert unpacked[3].isnan().all()
    assert row_errors[3].isnan()
    others = torch.arange(NUM_ROWS) != 3
    assert_bitwise_equal(unpacked[others], clean[others])
    assert row_errors[others].isfinite().all()


def test_embedding_reads_a_table_of_fp8(dtype: torch.dtype) -> None:
    rows = weight(dtype)
    token_ids = torch.randint(NUM_ROWS, (9,), dtype=torch.int32)
    buffer = Guarded(9, WIDTH, dtype=torch.float32)
    packed = ops.pack_linear(rows, "fp8")
    ops.embedding(token_ids, packed, buffer.out, scale=0.5)
    assert_bitwise_equal(
        buffer.checked(), reference.embedding(token_ids, ops.unpack_linear(packed), 0.5)
    )
