"""Forward passes that were recorded, to be run again on other inputs of the same shape."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from phi3svc.model.inputs import InputShape, ModelInput
from phi3svc.ops import Program

_MAX_PASSES = 64


@dataclass(frozen=True)
class RecordedPass:
    """`program` computes `h`, float32 [T, E], of what is written to `inputs`, with `rope_table`."""

    program: Program
    inputs: ModelInput
    rope_table: Tensor
    h: Tensor

    def run(self, inputs: ModelInput) -> Tensor:
        """h of other inputs of this shape; good until the next run."""
        self.program.wait()  # it may still read the ones before
        self.inputs.take(inputs)
        self.program.run()
        return self.h


class RecordedPasses:
    """The passes over one KV cache that were used last, by the shapes of their inputs.

    A batch that decodes has one shape for many steps, and need not be told anew, op by op, each
    time: at small models that takes longer than some of the ops.
    """

    def __init__(self) -> None:
        self._passes: OrderedDict[InputShape, RecordedPass] = OrderedDict()

    def find(self, shape: InputShape, rope_table: Tensor) -> RecordedPass | None:
        """The pass for a shape; none if it was recorded with another table, since outgrown."""
        found = self._passes.get(shape)
        if found is None or found.rope_table is not rope_table:
            return None
        self._passes.move_to_end(shape)
        return found

    def keep(self, recorded: RecordedPass) -> None:
        """Remember a pass, and forget the one that was not used for longest."""
        self._passes[recorded.inputs.shape] = recorded
        self._passes.move_to_end(recorded.inputs.shape)
        if len(self._passes) > _MAX_PASSES:
            self._passes.popitem(last=False)

    def clear(self) -> None:
        """Forget all, and with them the memory that they use."""
        self._passes.clear()
