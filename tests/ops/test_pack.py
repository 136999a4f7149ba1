"""Packed layouts, element by element."""

from __future__ import annotations

import pytest
import torch

import reference
from compare import assert_bitwise_equal
from devices import DEVICE
from op_tensors import poisoned, randn
from phi3svc import _core, ops

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 64])
def test_pack_linear_makes_zero_padded_panels(
    num_rows: int, width: int, dtype: torch.dtype
) -> None:
    weight = randn(num_rows, width, dtype=dtype)
    expected = reference.pack_panels(weight)
    data = poisoned(*expected.shape, dtype=dtype)
    _core.pack_linear(weight, data)
    assert_bitwise_equal(data, expected)

    packed = ops.pack_linear(weight)
    assert_bitwise_equal(packed.data, expected)
    assert (packed.out_features, packed.in_features) == (num_rows, width)
    assert packed.format == str(dtype).removeprefix("torch.")
    assert not packed.is_integer
    assert packed.device == weight.device


@pytest.mark.parametrize("mlp_width", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("width", [1, 16, 33])
def test_pack_gate_up_alternates_panels_padded_by_themselves(
    mlp_width: int, width: int, dtype: torch.dtype
) -> None:
    weight = randn(2 * mlp_width, width, dtype=dtype)
    expected = reference.pack_gate_up_panels(weight)
    data = poisoned(*expected.shape, dtype=dtype)
    _core.pack_gate_up(weight, data)
    assert_bitwise_equal(data, expected)

    packed = ops.pack_gate_up(weight)
    assert_bitwise_equal(packed.data, expected)
    assert (packed.out_features, packed.in_features) == (2 * mlp_width, width)


@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(16, 16), (48, 32), (96, 6), (32, 0)])
def test_pack_qkv_keeps_apart_what_is_not_rotated_together(
    heads: tuple[int, int], head_dim: int, rotary_dim: int, dtype: torch.dtype
) -> None:
    num_heads, num_kv_heads = heads
    weight = randn((num_heads + 2 * num_kv_heads) * head_dim, 40, dtype=dtype)
    packed = ops.pack_qkv(weight, num_heads, num_kv_heads, rotary_dim)
    expected = reference.pack_qkv_panels(
        weight, num_heads + num_kv_heads, num_heads + 2 * num_kv_heads, rotary_dim
    )
    assert_bitwise_equal(packed.data, expected)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_packing_does_not_depend_on_the_number_of_threads(
    num_threads: int, dtype: torch.dtype
) -> None:
    weight = randn(16 * 37 + 5, 96, dtype=dtype)
    ops.set_num_threads(num_threads)
    assert_bitwise_equal(ops.pack_linear(weight).data, reference.pack_panels(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_kv_cache_shapes_hold_the_pages_of_the_reference(dtype: torch.dtype) -> None:
    logical = torch.zeros(5, ops.PAGE_SIZE, 2, 48, dtype=dtype)
    k_shape, v_shape = ops.kv_cache_shapes(5, 2, 48, dtype, DEVICE)
    assert k_shape == tuple(reference.to_k_pages(logical).shape)
    assert v_shape == tuple(reference.to_v_pages(logical).shape)
    scales = torch.zeros(5, ops.PAGE_SIZE, 2)
    assert ops.kv_scales_shape(5, 2) == tuple(reference.to_scale_pages(scales).shape)
