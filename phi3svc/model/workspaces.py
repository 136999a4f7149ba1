"""Memory that a network's computations use meanwhile, kept from one to the next."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from phi3svc.model.passes import Recorded


class Workspaces:
    """Tensors by name, each as large as its largest use.

    What is recorded holds on to those that it was recorded with, so it is forgotten as they grow:
    else memory would hold every size that there ever was.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._tensors: dict[str, Tensor] = {}
        self._recorded: WeakSet[Recorded[Any]] = WeakSet()

    def forgets(self, recorded: Recorded[Any]) -> None:
        """Have `recorded` cleared whenever `forget` is called, or something grows."""
        self._recorded.add(recorded)

    def rows(
        self, name: str, num_rows: int, *row_shape: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """[num_rows, ...], of the network's dtype if not said."""
        if self._num_rows(name) < num_rows:
            self._let_go(name)
            shape = (with_room(num_rows), *row_shape)
            self._tensors[name] = torch.empty(
                shape, dtype=dtype or self._dtype, device=self._device
            )
        return self._tensors[name][:num_rows]

    def zeroed(self, name: str, num_bytes: int) -> Tensor:
        """uint8 [num_bytes or more], zeroed when it was made."""
        if self._num_rows(name) < num_bytes:
            self._let_go(name)
            size = with_room(num_bytes)
            self._tensors[name] = torch.zeros(size, dtype=torch.uint8, device=self._device)
        return self._tensors[name]

    def clear(self) -> None:
        """Begin anew."""
        self._tensors.clear()
        self.forget()

    def forget(self) -> None:
        """Forget what was recorded: something that it uses is no longer what is to be used."""
        for recorded in self._recorded:
            recorded.clear()

    def _num_rows(self, name: str) -> int:
        known = self._tensors.get(name)
        return -1 if known is None else len(known)

    def _let_go(self, name: str) -> None:
        """Of a tensor, before its successor is made, so that its memory is free for it."""
        if self._tensors.pop(name, None) is not None:
            self.forget()


def with_room(num_rows: int) -> int:
    """Rows of a workspace that has to hold so many: a power of two, so that it seldom grows."""
    return 1 << max(num_rows - 1, 0).bit_length()
