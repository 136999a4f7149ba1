"""Packed weights and quantized rows again in plain torch, byte by byte as their layouts say.

The layouts are those of csrc/core/weight_format.h.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from op_tensors import Guarded
from phi3svc import ops

PANEL_ROWS = 16
HEADER_BYTES = 64  # of a panel, and of a quantized row
INTEGER_FORMATS = [name for name in ops.WEIGHT_FORMATS if name.startswith("int")]
INT4_FORMATS = [name for name in INTEGER_FORMATS if name.startswith("int4")]
BLOCK_COLUMNS = {"int4-g32-min": 128, "int4-g32": 256, "int4-g128": 512, "int4-g128-min": 512}


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def group_size(format: str) -> int:
    return 32 if "g32" in format else 128


def panel_bytes(format: str, width: int) -> int:
    if format == "int8":
        return HEADER_BYTES + PANEL_ROWS * round_up(width, 32)
    columns = round_up(width, 128)
    num_blocks = math.ceil(columns / BLOCK_COLUMNS[format])
    return HEADER_BYTES + 64 * num_blocks + PANEL_ROWS * columns // 2


class Unpacked(NamedTuple):
    """What the bytes of some panels say: weight = scales · values, padding included."""

    scales: Tensor  # float32 [16 · panels]
    values: Tensor  # int32 [16 · panels, padded k]
    multipliers: Tensor  # int32 [16 · panels, groups], of int4
    zeros: Tensor  # int32 [16 · panels, groups], of int4


def unpacked(panels: Tensor, format: str, width: int) -> Unpacked:
    """panels: uint8 [panels, bytes of a panel]."""
    scales = panels[:, :HEADER_BYTES].contiguous().view(torch.float32).flatten()
    numbers = panels[:, HEADER_BYTES:].int()
    if format == "int8":
        quads = numbers.unflatten(1, (-1, PANEL_ROWS, 4))
        none = torch.empty(len(scales), 0, dtype=torch.int32)
        return Unpacked(scales, quads.transpose(1, 2).reshape(len(scales), -1) - 128, none, none)
    values, multipliers, zeros = [], [], []
    left = round_up(width, 128)
    while left:
        columns = min(left, BLOCK_COLUMNS[format])
        size = 64 + columns * PANEL_ROWS // 2
        block, numbers, left = numbers[:, :size], numbers[:, size:], left - columns
        line = block[:, :64].unflatten(1, (4, PANEL_ROWS))
        if format == "int4-g32":
            nibbles = torch.stack([line & 15, line >> 4], dim=2).flatten(1, 2)
            multiplier, zero = nibbles, torch.full_like(nibbles, 8)
        else:
            multiplier, zero = line & 15, line >> 4
        num_groups = columns // group_size(format)
        multiplier, zero = (
            t[:, :num_groups].transpose(1, 2).flatten(0, 1) for t in (multiplier, zero)
        )
        quads = block[:, 64:].unflatten(1, (-1, PANEL_ROWS, 4))
        q = torch.stack([quads & 15, quads >> 4], dim=2)  # [panels, columns / 8, 2, 16, 4]
        q = q.permute(0, 3, 1, 2, 4).reshape(len(scales), num_groups, -1)
        values.append(((q - zero[..., None]) * multiplier[..., None]).flatten(1))
        multipliers.append(multiplier)
        zeros.append(zero)
    assert numbers.shape[1] == 0
    return Unpacked(scales, *(torch.cat(each, dim=1) for each in (values, multipliers, zeros)))


def weights_of(packed: ops.PackedLinear) -> Tensor:
    """float32 [n, k] that a weight of an integer format stands for; see also `ops.unpack_linear`"""
    scales, values, *_ = unpacked(packed.data, packed.format, packed.in_features)
    return (scales[:, None] * values)[: packed.out_features, : packed.in_features]


def is_integer(format: str) -> bool:
    return format in INTEGER_FORMATS


def gate_and_up(packed: ops.PackedLinear) -> tuple[ops.PackedLinear, ops.PackedLinear]:
    """The halves of what `ops.pack_gate_up` made, each as `ops.pack_linear` packs it."""
    half = packed.out_features // 2
    gate, up = (
        ops.PackedLinear(packed.data[i::2].contiguous(), half, packed.in_features, packed.format)
        for i in (0, 1)
    )
    return gate, up


class QuantizedRows(NamedTuple):
    scales: Tensor  # float32 [T]
    sums: Tensor  # int32 [T]
    values: Tensor  # int8 [T, k], padding included


def quantized_rows(rows: Tensor) -> QuantizedRows:
    """The parts of int8 rows as `ops.quantize` writes them."""
    header = rows[:, :8].contiguous().view(torch.int32)
    scales = header[:, 0].contiguous().view(torch.float32)
    return QuantizedRows(scales, header[:, 1].contiguous(), rows[:, HEADER_BYTES:])


def quantize(x: Tensor) -> QuantizedRows:
    """[T, k] → what `ops.quantize` makes of it."""
    x = x.float()
    num_rows, width = x.shape
    scales = x.abs().amax(-1) / 127
    scales[~x.isfinite().all(-1)] = math.nan
    values = torch.zeros(num_rows, round_up(width, 128), dtype=torch.int8)
    is_kept = scales > 0
    kept = (x[is_kept] / scales[is_kept, None]).clamp(-127, 127).round()
    values[is_kept, :width] = kept.to(torch.int8)
    return QuantizedRows(scales, values.sum(-1, dtype=torch.int32), values)


def product(rows: Tensor, weight: ops.PackedLinear) -> Tensor:
    """float32 [T, n]: quantized rows · weightᵀ, to the bit.

    The sum of integers is exact; it is rounded to float32 and meets the product of both scales.
    """
    x = quantized_rows(rows)
    scales, values, *_ = unpacked(weight.data, weight.format, weight.in_features)
    scales, values = scales[: weight.out_features], values[: weight.out_features]
    width = values.shape[1]
    sums = x.values[:, :width].double() @ values.double().T + 0.0  # not -0
    return sums.float() * (scales * x.scales[:, None])


def rows_for(num_rows: int, width: int) -> Guarded:
    """Room for quantized rows, at an address that is a multiple of 4 and no more."""
    size = ops.quantized_row_bytes(width)
    return Guarded(num_rows, size, dtype=torch.int8, margin=68)


def input_of(x: Tensor, format: str) -> Tensor:
    """`x` as an op takes it beside a weight of `format`."""
    if not is_integer(format):
        return x
    rows = torch.empty(len(x), ops.quantized_row_bytes(x.shape[1]), dtype=torch.int8)
    ops.quantize(x, rows)
    return rows
