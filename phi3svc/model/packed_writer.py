"""Writes a file of packed weights: `model/packed_format.py` says what is in it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from phi3svc.model.packed_format import ALIGNMENT, DTYPE_NAMES, LinearEntry, write_metadata
from phi3svc.model.pages import writable_tensor
from phi3svc.ops import PackedLinear

# More than a tensor takes in the header, besides its name: two entries and its padding's.
_ENTRY_BYTES = 512


def aligned(num_bytes: int) -> int:
    """What so many bytes take, with the padding behind them."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def header_bytes(names: Iterable[str]) -> int:
    """Bytes before the first of the tensors that may have these names."""
    return aligned(1024 + sum(2 * len(json.dumps(name)) + _ENTRY_BYTES for name in names))


class PackedFileWriter:
    """Fills an empty file, one tensor after the other, through memory.

    Room on the disk is taken before it is written to, so that a full disk is an OSError and no
    signal; but for file systems that write elsewhere than what was taken, as btrfs and ZFS may. The
    file is good once `finish` has returned.
    """

    def __init__(
        self,
        descriptor: int,
        format: str,
        names: Iterable[str],
        num_bytes: int,
        max_bytes: int | None = None,
    ) -> None:
        """names: of all tensors that may come. num_bytes: about how large the file will be.

        max_bytes: how large it may be, or else OSError.
        """
        self._descriptor = descriptor
        self._format = format
        self._max_bytes = max_bytes
        self._data_start = header_bytes(names)
        self._end = self._data_start
        self._entries: dict[str, dict[str, object]] = {}
        self._linears: dict[str, LinearEntry] = {}
        self._take(0, max(num_bytes, self._data_start))

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for the next tensor, to be filled and then added; or else for another."""
        self._take(self._end, aligned(math.prod(shape) * dtype.itemsize))
        return writable_tensor(self._descriptor, self._end, shape, dtype)

    def add_plain(self, name: str, tensor: Tensor) -> None:
        """Write a tensor."""
        self._add(name, self.room(tuple(tensor.shape), tensor.dtype).copy_(tensor))

    def add_linear(self, name: str, packed: PackedLinear, is_gate_up: bool) -> None:
        """Add a weight that was packed into the latest `room`."""
        self._add(name, packed.data)
        self._linears[name] = LinearEntry(
            packed.format, packed.out_features, packed.in_features, is_gate_up
        )

    def finish(self) -> None:
        """Write the header, and give back what room is left."""
        metadata = write_metadata(self._format, self._linears)
        header = json.dumps({"__metadata__": metadata} | self._entries, separators=(",", ":"))
        text = header.encode().ljust(self._data_start - 8)
        if len(text) > self._data_start - 8:
            raise ValueError(f"{len(text)} bytes of header; room for {self._data_start - 8}")
        os.pwrite(self._descriptor, len(text).to_bytes(8, "little") + text, 0)
        os.ftruncate(self._descriptor, self._end)

    def _take(self, offset: int, num_bytes: int) -> None:
        """Have so many bytes from `offset` on taken on the disk."""
        if self._max_bytes is not None and offset + num_bytes > self._max_bytes:
            raise OSError(f"more than the {self._max_bytes} bytes that there is room for")
        if num_bytes:
            os.posix_fallocate(self._descriptor, offset, num_bytes)

    def _add(self, name: str, tensor: Tensor) -> None:
        self._describe(name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), tensor.nbytes)
        padding = aligned(self._end) - self._end
        if padding:
            self._describe(f"padding.{len(self._entries)}", "U8", [padding], padding)

    def _describe(self, name: str, dtype: str, shape: list[int], num_bytes: int) -> None:
        begin = self._end - self._data_start
        offsets = [begin, begin + num_bytes]
        self._entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        self._end += num_bytes
