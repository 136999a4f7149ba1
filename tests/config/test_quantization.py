"""Quantization schemes: their names, what config.json says of them, and what it may not say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phi3svc import ops
from phi3svc.config.json_file import Fields
from phi3svc.config.quantization import (
    MAX_IN_FEATURES,
    Quantization,
    check_dtype,
    read_quantization,
)
from phi3svc.errors import ConfigError

INT8 = Quantization(8)
SCHEMES = {
    "int8": INT8,
    "int4-g32": Quantization(4, 32, is_symmetric=True),
    "int4-g32-min": Quantization(4),
    "int4-g128": Quantization(4, 128, is_symmetric=True),
    "int4-g128-min": Quantization(4, 128),
    "int4-g32-min-head4": Quantization(4, head_bits=4),
}


def read(value: object) -> Quantization | None:
    return read_quantization(Fields({"quantization_config": value}, "config.json"))


@pytest.mark.parametrize(("name", "scheme"), SCHEMES.items())
def test_a_scheme_has_one_name_and_one_record(name: str, scheme: Quantization) -> None:
    assert scheme.name == name
    assert Quantization.of(name) == scheme
    assert read(scheme.to_json()) == scheme


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (17, 33), (300, 129), (64, 3072)])
@pytest.mark.parametrize("name", SCHEMES)
def test_packed_bytes_are_those_of_the_kernels(name: str, shape: tuple[int, int]) -> None:
    scheme = SCHEMES[name]
    (num_panels, panel_bytes), _ = ops.packed_shape(*shape, scheme.format)
    assert scheme.packed_bytes(*shape) == num_panels * panel_bytes
    gate_up = (2 * shape[0], shape[1])
    (num_panels, panel_bytes), _ = ops.packed_shape(*gate_up, scheme.format, is_gate_up=True)
    assert scheme.packed_bytes(*gate_up, is_gate_up=True) == num_panels * panel_bytes


def test_rows_that_are_too_long_take_what_bfloat16_does() -> None:
    shape = (17, MAX_IN_FEATURES + 1)
    packed_shape, dtype = ops.packed_shape(*shape, "bfloat16")
    assert INT8.packed_bytes(*shape) == math.prod(packed_shape) * dtype.itemsize


def test_the_head_has_8_bits_unless_told_otherwise() -> None:
    assert SCHEMES["int4-g128"].head == INT8
    assert SCHEMES["int4-g32-min-head4"].head.format == "int4-g32-min"


def test_int4_alone_is_the_best_of_them() -> None:
    assert Quantization.of("int4") == SCHEMES["int4-g32-min"]
    assert Quantization.of("bfloat16") is None


def test_a_config_without_it_is_not_quantized() -> None:
    assert read(None) is None


def ours(**fields: Any) -> dict[str, Any]:
    return {"quant_method": "phi3svc", **fields}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("int8", "quantization_config is 'int8'"),
        ({}, "quantization_config.quant_method is missing"),
        ({"quant_method": "awq", "bits": 4}, "quantization_config.quant_method is 'awq'"),
        (ours(), "quantization_config.bits is missing"),
        (ours(bits=6), "quantization_config.bits is 6"),
        (ours(bits="8"), "quantization_config.bits is '8'"),
        (ours(bits=4), "quantization_config.group_size is missing"),
        (ours(bits=4, group_size=64), "quantization_config.group_size is 64"),
        (ours(bits=4, group_size=32, symmetric=1), "quantization_config.symmetric is 1"),
    ],
)
def test_what_config_json_may_not_say_is_named(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(value)
    assert str(caught.value).startswith(f"config.json: {message}")


@pytest.mark.parametrize(
    "fields",
    [{"bits": 5}, {"bits": 4, "group_size": 64}, {"bits": 8, "group_size": 128}],
    ids=str,
)
def test_schemes_that_do_not_exist_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"bits=|group_size="):
        Quantization(**fields)


def test_a_quantized_checkpoint_is_served_as_it_is() -> None:
    for dtype in ("auto", "int4", "int4-g128"):
        check_dtype(dtype, SCHEMES["int4-g128"], "model/")
    for dtype in ("float32", "bfloat16", "int8", "int4-g32-min"):
        with pytest.raises(ConfigError, match=f"dtype='{dtype}'.*quantized to int4-g128"):
            check_dtype(dtype, SCHEMES["int4-g128"], "model/")
