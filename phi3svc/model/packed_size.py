"""What weights take when they are packed, before any is read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.model.packed_writer import aligned, header_bytes
from phi3svc.model.quantization import first_format
from phi3svc.model.weight_source import Heads, Rows, dtype_of
from phi3svc.ops import PackedLinear


class MeasuringSource:
    """A `WeightSource` that gives weights without data, and counts what it was asked for.

    So it is the network's own code that says which weights are packed, and how. file_bytes: of a
    file of `model/packed_format.py` with all of them, unless some have to keep more bits.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], format: str) -> None:
        """shapes: of every tensor that there is; format: of the linear weights."""
        self.format = format
        self.dtype = dtype_of(format)
        self.file_bytes = header_bytes(shapes)
        self._shapes = shapes

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def plain(self, name: str, rows: Rows | None = None) -> Tensor:
        return self._count(self._shapes[name], self.dtype)

    def linear(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=False)

    def qkv(self, name: str, heads: Heads, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=False)

    def gate_up(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=True)

    def _packed(self, name: str, is_gate_up: bool) -> PackedLinear:
        out_features, in_features = self._shapes[name]
        format = first_format(name, in_features, self.format)
        packed_shape = ops.packed_shape(out_features, in_features, format, is_gate_up)
        return PackedLinear(self._count(*packed_shape), out_features, in_features, format)

    def _count(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.file_bytes += aligned(math.prod(shape) * dtype.itemsize)
        return torch.empty(shape, dtype=dtype, device="meta")
