"""Weights of a checkpoint, packed one after the other as a network asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.model.packed_writer import PackedFileWriter
from phi3svc.model.pages import empty_tensor
from phi3svc.model.quantization import MAX_ROW_ERROR, choose_format, first_format
from phi3svc.model.weight_source import Heads, Rows, dtype_of
from phi3svc.model.weights import TensorSource
from phi3svc.ops import PackedLinear

_Pack = Callable[[Tensor, str, Tensor, Tensor | None], PackedLinear]


class PackedWeight(NamedTuple):
    """What was made of one weight, for a report.

    row_errors: by integer format, what is lost per row, as `ops.pack_linear` says; of every format
    that was tried, one after the other.
    """

    name: str
    packed: PackedLinear
    row_errors: Mapping[str, Tensor]


class PackingSource:
    """A `WeightSource` that reads, converts and packs.

    Which weights keep more bits than `format` has, `model/quantization.py` decides.
    """

    def __init__(
        self,
        tensors: TensorSource,
        format: str,
        writer: PackedFileWriter | None = None,
        on_packed: Callable[[PackedWeight], None] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """format: of the linear weights. on_packed: told of each of them. device: what packs them.

        writer: packs into a file. What this gives has no data then (torch's "meta" device): weights
        that lie in the file, mapped one by one, would take a descriptor each.
        """
        self._tensors = tensors
        self.format = format
        self._writer = writer
        self._on_packed = on_packed
        self._device = torch.device(device)
        self.dtype = dtype_of(format)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def plain(self, name: str, rows: Rows | None = None) -> Tensor:
        tensor = self._read(name, rows)
        if self._writer is None:
            return tensor
        self._writer.add_plain(name, tensor)
        return tensor.to("meta")

    def linear(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._pack(name, rows, ops.pack_linear)

    def qkv(self, name: str, heads: Heads, rows: Rows | None = None) -> PackedLinear:
        def pack(
            weight: Tensor, format: str, out: Tensor, row_errors: Tensor | None
        ) -> PackedLinear:
            return ops.pack_qkv(weight, *heads, format, out, row_errors)

        return self._pack(name, rows, pack)

    def gate_up(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._pack(name, rows, ops.pack_gate_up, is_gate_up=True)

    def _read(self, name: str, rows: Rows | None) -> Tensor:
        tensor = self._tensors.read(name, self.dtype).to(self._device)
        return tensor if rows is None else rows(tensor)

    def _pack(
        self,
        name: str,
        rows: Rows | None,
        pack: _Pack,
        is_gate_up: bool = False,
    ) -> PackedLinear:
        weight = self._read(name, rows)
        format = first_format(name, weight.shape[1], self.format)
        tried: dict[str, Tensor] = {}
        while True:
            packed, row_errors = self._pack_in(weight, format, pack, is_gate_up)
            if row_errors is None:
                break
            tried[format] = row_errors
            better = choose_format(format, row_errors)
            if better == format:
                break
            format = better
        if self._writer is not None:
            self._writer.add_linear(name, packed, is_gate_up)
        if self._on_packed is not None:
            self._on_packed(PackedWeight(name, packed, tried))
        return packed if self._writer is None else replace(packed, data=packed.data.to("meta"))

    def _pack_in(
        self,
        weight: Tensor,
        format: str,
        pack: _Pack,
        is_gate_up: bool,
    ) -> tuple[PackedLinear, Tensor | None]:
        out_features, in_features = weight.shape
        shape, dtype = ops.packed_shape(out_features, in_features, format, is_gate_up, self._device)
        if self._writer is not None:
            out = self._writer.room(shape, dtype)
        elif self._device.type == "cpu":
            out = empty_tensor(shape, dtype)
        else:
            out = torch.empty(shape, dtype=dtype, device=self._device)
        row_errors = torch.empty(len(weight)) if format in MAX_ROW_ERROR else None
        return pack(weight, format, out, row_errors), row_errors
