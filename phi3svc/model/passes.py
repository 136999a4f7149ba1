"""What was recorded, to be run again on other inputs of the same shape."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from phi3svc.model.inputs import InputShape, ModelInput
from phi3svc.ops import Program

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RecordedPass:
    """`program` computes `h`, float32 [T, E], of what is written to `inputs`."""

    program: Program
    inputs: ModelInput
    h: Tensor

    def run(self, inputs: ModelInput) -> Tensor:
        """h of other inputs of this shape; good until the next run."""
        self.program.wait()  # it may still read the ones before
        self.inputs.take(inputs)
        self.program.run()
        return self.h


class Recorded(Generic[_Item]):
    """Those of one kind, over one KV cache, that were used last, by the shapes of their inputs.

    A batch that decodes has one shape for many steps, and need not be told anew, op by op, each
    time: at small models that takes longer than some of the ops.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: OrderedDict[InputShape, _Item] = OrderedDict()

    def find(self, shape: InputShape) -> _Item | None:
        found = self._items.get(shape)
        if found is not None:
            self._items.move_to_end(shape)
        return found

    def keep(self, shape: InputShape, item: _Item) -> None:
        """Remember one, and forget the one that was not used for longest."""
        self._items[shape] = item
        self._items.move_to_end(shape)
        if len(self._items) > self._max_items:
            self._items.popitem(last=False)

    def clear(self) -> None:
        """Forget all, and with them the memory that they use."""
        self._items.clear()
