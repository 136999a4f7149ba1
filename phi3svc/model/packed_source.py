"""Weights from a file of packed ones: `model/packed_format.py` says what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from phi3svc.config.quantization import MAX_IN_FEATURES, Quantization
from phi3svc.config.tensors import TensorInfo, header_of
from phi3svc.errors import ConfigError
from phi3svc.model.packed_format import ALIGNMENT, DTYPE_NAMES, LinearEntry, read_metadata
from phi3svc.model.pages import FileMapping
from phi3svc.model.weight_source import Heads, Rows, dtype_of
from phi3svc.model.weights import Progress, check_required
from phi3svc.ops import PackedLinear


class PackedSource:
    """A `WeightSource` that maps a packed file into memory and gives the weights as they lie there.

    Everything that the file says is checked here, before its data is touched. Raises ConfigError in
    one line. A file that is cut short afterwards ends the process (SIGBUS), as with all that is
    mapped.
    """

    def __init__(
        self,
        stream: BinaryIO,
        file: Path,
        format: str,
        shapes: Mapping[str, tuple[int, ...]],
        required: Iterable[str],
        progress: Progress | None = None,
    ) -> None:
        """stream: `file`, open. A lock that it has is held for as long as there are weights.

        format: what the file must have been packed in. shapes: in a checkpoint, of every tensor
        that the network may use; required: those it cannot do without.
        """
        self.format = format
        self.dtype = dtype_of(format)
        self._file = file
        header = header_of(stream, file)
        linears = read_metadata(header.metadata, format, str(file))
        self._tensors = {n: header.tensors[n] for n in shapes if n in header.tensors}
        self._linears = {n: linears[n] for n in self._tensors if n in linears}
        for name, tensor in self._tensors.items():
            self._check(tensor, self._linears.get(name), shapes[name])
        check_required(self._tensors, required, str(file))
        self._total_bytes = sum(tensor.num_bytes for tensor in self._tensors.values())
        self._done_bytes = 0
        self._progress = progress
        try:
            self._mapping = FileMapping(stream.fileno(), os.fstat(stream.fileno()).st_size)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: cannot be mapped into memory: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def plain(self, name: str, rows: Rows | None = None) -> Tensor:
        if name in self._linears:
            raise ConfigError(f"{self._file}: tensor {name!r} is packed; it must be plain")
        return self._map(name)

    def linear(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=False)

    def qkv(self, name: str, heads: Heads, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=False)

    def gate_up(self, name: str, rows: Rows | None = None) -> PackedLinear:
        return self._packed(name, is_gate_up=True)

    def _packed(self, name: str, is_gate_up: bool) -> PackedLinear:
        entry = self._linears.get(name)
        if entry is None or entry.is_gate_up != is_gate_up:
            kind = "gate and up rows" if is_gate_up else "a linear weight"
            raise ConfigError(f"{self._file}: tensor {name!r} is not packed as {kind}")
        return PackedLinear(self._map(name), entry.out_features, entry.in_features, entry.format)

    def _map(self, name: str) -> Tensor:
        info = self._tensors[name]
        dtype = next(dtype for dtype, text in DTYPE_NAMES.items() if text == info.dtype)
        tensor = self._mapping.tensor(info.offset, info.shape, dtype)
        self._done_bytes += info.num_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
        return tensor

    def _check(
        self, tensor: TensorInfo, linear: LinearEntry | None, shape: tuple[int, ...]
    ) -> None:
        where = f"{self._file}: tensor {tensor.name!r}"
        in_file: tuple[tuple[int, ...], torch.dtype] = (shape, self.dtype)
        if linear is not None:
            if (linear.out_features, linear.in_features) != shape:
                raise ConfigError(
                    f"{where} stands for [{linear.out_features}, {linear.in_features}]; "
                    f"config.json makes it {list(shape)}"
                )
            in_file = linear.packed_shape()
            is_integer = in_file[1] == torch.uint8
            if is_integer and linear.in_features > MAX_IN_FEATURES:
                raise ConfigError(
                    f"{where} is in {linear.format}, with {linear.in_features} columns; expected "
                    f"at most {MAX_IN_FEATURES}"
                )
            is_quantized = Quantization.of(self.format) is not None
            if not (is_quantized if is_integer else in_file[1] == self.dtype):
                raise ConfigError(f"{where} is in {linear.format}; the model is in {self.format}")
        expected = (in_file[0], DTYPE_NAMES[in_file[1]])
        if (tensor.shape, tensor.dtype) != expected:
            raise ConfigError(
                f"{where} is {tensor.dtype} {list(tensor.shape)}; "
                f"expected {expected[1]} {list(expected[0])}"
            )
        if tensor.offset % ALIGNMENT:
            raise ConfigError(f"{where} begins at byte {tensor.offset}, no multiple of {ALIGNMENT}")
