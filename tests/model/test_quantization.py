"""Which weights keep more bits: by names, by row errors, and by what packing real weights says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.quantization import MAX_IN_FEATURES
from phi3svc.model.packing import PackedWeight, PackingSource
from phi3svc.model.quantization import MAX_ROW_ERROR, choose_format, first_format

FORMATS = tuple(MAX_ROW_ERROR)
INT4 = tuple(name for name in FORMATS if name.startswith("int4"))
NUM_ROWS, NUM_COLUMNS = 64, 3072
NAME = "model.layers.2.mlp.down_proj.weight"


class Tensors:
    """A `TensorSource` of one weight, whatever it is called."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __contains__(self, name: str) -> bool:
        return True

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._weight.to(dtype, copy=True)


def pack(weight: Tensor, format: str, name: str = NAME, is_gate_up: bool = False) -> PackedWeight:
    """What a network that is to be in `format` makes of the weight."""
    told: list[PackedWeight] = []
    source = PackingSource(Tensors(weight), format, on_packed=told.append)
    packed = source.gate_up(name) if is_gate_up else source.linear(name)
    assert told[0].packed is packed
    return told[0]


def worst(errors: Mapping[str, Tensor]) -> dict[str, float]:
    return {format: float(rows.max()) for format, rows in errors.items()}


def normal(*, rows: int = NUM_ROWS, columns: int = NUM_COLUMNS) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / 50


def with_super_weight(size: float) -> Tensor:
    """One weight of `size` deviations among weights of one, as in Phi-3-mini's layers 2 and 4."""
    weight = normal(columns=8192)
    weight[NUM_ROWS // 2, 808] = size / 50
    return weight


@pytest.mark.parametrize("format", FORMATS)
def test_ordinary_weights_stay(format: str) -> None:
    made = pack(normal(), format)
    assert made.packed.format == format
    assert list(made.row_errors) == [format]
    assert worst(made.row_errors)[format] < 0.6 * MAX_ROW_ERROR[format]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [100.0, -100.0])
def test_a_row_whose_scale_one_weight_sets_keeps_its_dtype(format: str, size: float) -> None:
    """8 bits are no help: of the row's 255 steps, the other weights see five."""
    made = pack(with_super_weight(size), format)
    assert made.packed.format == "bfloat16"
    assert list(made.row_errors) == list(dict.fromkeys([format, "int8"]))
    for tried, rows in made.row_errors.items():
        assert rows[NUM_ROWS // 2] > MAX_ROW_ERROR[tried]
        ordinary = torch.cat([rows[: NUM_ROWS // 2], rows[NUM_ROWS // 2 + 1 :]])
        assert ordinary.max() < 0.6 * MAX_ROW_ERROR[tried]


@pytest.mark.parametrize("format", FORMATS)
def test_a_weight_of_a_dozen_deviations_is_no_reason(format: str) -> None:
    assert pack(with_super_weight(12.0), format).packed.format == format


@pytest.mark.parametrize("format", INT4)
def test_a_row_with_a_large_weight_in_each_group_gets_8_bits(format: str) -> None:
    weight = normal()
    weight[5, ::32] = 0.25
    made = pack(weight, format)
    assert made.packed.format == "int8"
    assert worst(made.row_errors)[format] > MAX_ROW_ERROR[format]
    assert worst(made.row_errors)["int8"] < MAX_ROW_ERROR["int8"]


def test_rows_of_gate_and_up_count_alike() -> None:
    for row in (3, NUM_ROWS - 3):
        weight = normal()
        weight[row, 7] = 2.0
        assert pack(weight, "int4-g32-min", is_gate_up=True).packed.format == "bfloat16"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_rounded(value: float) -> None:
    weight = normal()
    weight[1, 1] = value
    packed = pack(weight, "int4-g32").packed
    assert packed.format == "bfloat16"
    torch.testing.assert_close(
        ops.unpack_linear(packed), weight.bfloat16().float(), rtol=0, atol=0, equal_nan=True
    )


def test_zeros_lose_nothing() -> None:
    made = pack(torch.zeros(NUM_ROWS, NUM_COLUMNS), "int4-g128")
    assert worst(made.row_errors) == {"int4-g128": 0.0}


@pytest.mark.parametrize("format", FORMATS)
def test_errors_are_those_of_the_unpacked_weight(format: str) -> None:
    weight = normal().bfloat16().float()
    made = pack(weight, format)
    lost = (ops.unpack_linear(made.packed) - weight).square().mean(1).sqrt()
    torch.testing.assert_close(
        made.row_errors[format], lost / weight.abs().mean(1), rtol=1e-3, atol=0
    )


def test_head_gets_8_bits_unless_told_otherwise_and_a_classifier_all() -> None:
    for name in ("lm_head.weight", "model.embed_tokens.weight"):  # packed if tied
        assert pack(normal(), "int4-g32", name).packed.format == "int8"
        assert pack(normal(), "int4-g32-head4", name).packed.format == "int4-g32"
    assert pack(normal(), "int4-g32", "score.weight").packed.format == "bfloat16"


def test_rows_that_no_integer_format_takes_are_left_alone() -> None:
    weight = normal(rows=16, columns=MAX_IN_FEATURES + 16)
    assert pack(weight, "int8").packed.format == "bfloat16"
    assert pack(weight[:, :MAX_IN_FEATURES], "int8").packed.format == "int8"


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_float_formats_are_nobodys_business(format: str) -> None:
    assert first_format("lm_head.weight", NUM_COLUMNS, format) == format
    made = pack(with_super_weight(100.0), format)
    assert made.packed.format == format
    assert not made.row_errors


@pytest.mark.parametrize("format", FORMATS)
def test_the_worst_row_decides(format: str) -> None:
    rows = torch.full((8,), 0.01)
    rows[3] = 0.999 * MAX_ROW_ERROR[format]
    assert choose_format(format, rows) == format
    rows[3] = 1.001 * MAX_ROW_ERROR[format]
    assert choose_format(format, rows) == ("bfloat16" if format == "int8" else "int8")
