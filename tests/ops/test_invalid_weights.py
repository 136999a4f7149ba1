"""Wrong weights of integer formats, and wrong quantized rows: as in `test_invalid_calls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from op_tensors import randn
from phi3svc import _core, ops
from test_invalid_calls import (
    BF16,
    VALID,
    Call,
    F,
    T,
    assert_refused,
    name_of,
    quantized_rows,
    quantized_weights,
)
from weight_formats import INTEGER_FORMATS

QUANTIZED_ARGUMENTS = [
    (op, name) for op, make in VALID.items() for name in quantized_weights(make())
]


def spoilt(call: Call, arg: str, change: Callable[[Tensor, str, int], tuple[Any, ...]]) -> Call:
    return {**call, arg: change(*call[arg])}


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float32, torch.bfloat16])
def test_a_wrong_dtype_of_a_quantized_weight_is_named(
    op: str, arg: str, dtype: torch.dtype
) -> None:
    call = spoilt(
        VALID[op](), arg, lambda data, *rest: (torch.zeros(data.shape, dtype=dtype), *rest)
    )
    assert_refused(op, call, rf"^{name_of(op)}: {arg} is \w+, expected uint8")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
@pytest.mark.parametrize(("panels", "size"), [(-1, 0), (1, 0), (0, -1), (0, 1), (0, 64)])
def test_a_wrong_size_of_a_quantized_weight_is_named(
    op: str, arg: str, panels: int, size: int
) -> None:
    def change(data: Tensor, *rest: Any) -> tuple[Any, ...]:
        shape = (data.shape[0] + panels, data.shape[1] + size)
        return torch.zeros(shape, dtype=torch.uint8), *rest

    call = spoilt(VALID[op](), arg, change)
    assert_refused(op, call, rf"^{name_of(op)}: {arg} dim {0 if panels else 1} .* is \d+, expected")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
def test_a_quantized_weight_of_another_rank_or_density_is_named(op: str, arg: str) -> None:
    for change in (lambda data: data.flatten(), lambda data: data[None]):
        call = spoilt(VALID[op](), arg, lambda data, *rest, change=change: (change(data), *rest))
        assert_refused(op, call, rf"^{name_of(op)}: {arg} has rank")
    call = spoilt(
        VALID[op](), arg, lambda data, *rest: (data.repeat_interleave(2, dim=-1)[:, ::2], *rest)
    )
    assert_refused(op, call, rf"^{name_of(op)}: {arg} is not contiguous")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
@pytest.mark.parametrize("off", [1, 2, 3])
def test_a_quantized_weight_at_an_odd_address_is_named(op: str, arg: str, off: int) -> None:
    def change(data: Tensor, *rest: Any) -> tuple[Any, ...]:
        storage = torch.zeros(data.numel() + 4, dtype=torch.uint8)
        return storage[off : off + data.numel()].view(data.shape), *rest

    call = spoilt(VALID[op](), arg, change)
    assert_refused(op, call, rf"^{name_of(op)}: {arg} is not aligned to 4 bytes")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
def test_other_columns_than_a_quantized_weight_has_are_named(op: str, arg: str) -> None:
    """Some columns more or less fill the same panels, and the same rows of activations."""
    columns = VALID[op]()[arg][2]
    for wrong in (columns - 48, columns + 128, 0, -1, 65537, 2**62):
        call = spoilt(VALID[op](), arg, lambda data, format, k, wrong=wrong: (data, format, wrong))
        assert_refused(op, call, rf"^{name_of(op)}: \w+ ")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
def test_a_format_of_another_size_or_none_is_named(op: str, arg: str) -> None:
    data, format, columns = VALID[op]()[arg]
    other = "int4-g32" if format == "int8" else "int8"
    call = {**VALID[op](), arg: (data, other, columns)}
    assert_refused(op, call, rf"^{name_of(op)}: {arg} dim 1 ")
    for unknown in ("", "int4", "INT8", "float16"):
        call = {**VALID[op](), arg: (data, unknown, columns)}
        assert_refused(op, call, rf"^{name_of(op)}: {arg} .*'{unknown}'")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
def test_a_quantized_weight_of_another_form_is_a_type_error(op: str, arg: str) -> None:
    data, format, columns = VALID[op]()[arg]
    for wrong in (
        (data, format),
        (data, format, columns, 0),
        (data, 8, columns),
        (data, format, 1.5),
        (None, format, columns),
    ):
        with pytest.raises(TypeError):
            getattr(_core, name_of(op))(**{**VALID[op](), arg: wrong})


@pytest.mark.parametrize(
    ("op", "arg", "quantized"),
    [
        ("linear", "x", "linear int8"),
        ("mlp", "x", "mlp int4"),
        ("qkv_rope", "x", "qkv_rope int4"),
        ("lm_head", "normed", "lm_head int8"),
        ("classify_head", "normed", "classify_head int4"),
    ],
)
def test_rows_and_weight_are_both_quantized_or_neither(op: str, arg: str, quantized: str) -> None:
    floats, integers = VALID[op](), VALID[quantized]()
    assert_refused(op, {**floats, arg: integers[arg]}, rf"^{op}: {arg} is int8, expected ")
    assert_refused(op, {**integers, arg: floats[arg]}, rf"^{op}: {arg} is bfloat16, expected int8")


QUANTIZED_ROWS = [
    ("quantize", "out"),
    ("rms_norm quantized", "out"),
    ("layer_norm quantized", "out"),
    ("linear int8", "x"),
    ("mlp int4", "x"),
    ("mlp int4", "quantized_act"),
    ("qkv_rope int4", "x"),
    ("lm_head int8", "normed"),
    ("classify_head int4", "normed"),
]


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ROWS)
@pytest.mark.parametrize("off", [1, 2, 3])
def test_quantized_rows_at_an_odd_address_are_named(op: str, arg: str, off: int) -> None:
    call = VALID[op]()
    rows = call[arg]
    storage = torch.zeros(rows.numel() + 4, dtype=torch.int8)
    call[arg] = storage[off : off + rows.numel()].view(rows.shape)
    assert_refused(op, call, rf"^{name_of(op)}: {arg} is not aligned to 4 bytes")


@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ROWS)
def test_quantized_rows_of_another_width_are_named(op: str, arg: str) -> None:
    call = VALID[op]()
    rows = call[arg]
    for size in (-128, -1, 1, 128):
        call[arg] = torch.zeros(rows.shape[0], rows.shape[1] + size, dtype=torch.int8)
        message = rf"^{name_of(op)}: {arg} dim 1 \(quantized row\) is \d+, expected {rows.shape[1]}"
        assert_refused(op, call, message)


def test_an_integer_down_needs_room_for_its_rows_and_a_float_one_none() -> None:
    call = {**VALID["mlp int4"](), "quantized_act": None}
    assert_refused("mlp", call, "^mlp: quantized_act is missing with down of format int4-g128")
    call = {**VALID["mlp"](), "quantized_act": quantized_rows(T, F)}
    assert_refused("mlp", call, "^mlp: quantized_act is given with down of format bfloat16")


@pytest.mark.parametrize("op", ["pack_linear", "pack_gate_up"])
def test_row_errors_of_a_float_format_are_refused(op: str) -> None:
    call = VALID[op]()
    call["row_errors"] = randn(len(call["weight"]))
    assert_refused(op, call, f"^{op}: row_errors is given with format bfloat16")


@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_more_columns_than_sums_hold_are_refused(format: str) -> None:
    weight = torch.zeros(1, 65537)
    message = r"^pack_linear: out has 65537 columns, expected 1\.\.65536 "
    with pytest.raises(ops.Error, match=message):
        ops.pack_linear(weight, format)


def test_a_weight_is_packed_in_its_own_dtype_or_an_integer_format() -> None:
    for dtype, format in ((torch.float32, "bfloat16"), (BF16, "float32")):
        with pytest.raises(ops.Error, match=r"^pack_linear: out "):
            ops.pack_linear(randn(16, 32, dtype=dtype), format)
    with pytest.raises(ops.Error, match=r"^packed_panel_bytes: format is 'int4', unknown"):
        ops.pack_linear(randn(16, 32), "int4")


@pytest.mark.parametrize("columns", [0, -1, 65537, 2**62, 2**63 - 1, 2**64, -(2**70)])
@pytest.mark.parametrize(("op", "arg"), QUANTIZED_ARGUMENTS)
def test_columns_that_no_weight_has_are_refused(op: str, arg: str, columns: int) -> None:
    call = spoilt(VALID[op](), arg, lambda data, format, _: (data, format, columns))
    assert_refused(op, call, rf"^{name_of(op)}: {arg} has {columns} columns, expected 1\.\.65536 ")


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_a_float_weight_may_not_say_how_it_is_stored(format: str) -> None:
    weight = randn(16, 32, dtype=BF16)
    packed = ops.pack_linear(weight).data
    message = f"is of format '{format}', expected fp8 or one of the integer formats "
    with pytest.raises(ops.Error, match=f"^linear: weight {message}"):
        _core.linear(randn(1, 32, dtype=BF16), (packed, format, 32), torch.empty(1, 16))
    with pytest.raises(ops.Error, match=f"^pack_linear: out {message}"):
        _core.pack_linear(weight, (packed, format, 32))


def test_sizes_of_what_is_packed_are_bounded() -> None:
    for in_features in (0, -1, 2**40):
        with pytest.raises(ops.Error, match=rf"^packed_panel_bytes: in_features is {in_features}"):
            ops.packed_shape(16, in_features, "int8")
        with pytest.raises(ops.Error, match=rf"^quantized_row_bytes: in_features is {in_features}"):
            ops.quantized_row_bytes(in_features)


def test_a_vocabulary_beyond_all_ids_is_refused() -> None:
    table, out = ops.pack_linear(randn(16, 32)).data, torch.empty(1, 32)
    for vocab_size in (2**31, 2**63 - 1):
        with pytest.raises(ops.Error, match=rf"^embedding: vocab_size is {vocab_size}"):
            _core.embedding(torch.zeros(1, dtype=torch.int32), table, out, vocab_size=vocab_size)
