"""What quantizing did to each layer, as a table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from phi3svc.config.sizes import size_text

if TYPE_CHECKING:
    from phi3svc.model.quantized_checkpoint import QuantizedWeight

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class QuantizationReport:
    """Collects the weights, and shows them layer by layer.

    format: the one that was asked for; what is in another is named.
    """

    def __init__(self, format: str) -> None:
        self._format = format
        self._weights: dict[str, list[QuantizedWeight]] = {}

    def add(self, weight: QuantizedWeight) -> None:
        layer = _LAYER.match(weight.name)
        group = f"layer {layer[1]}" if layer else weight.name.removesuffix(".weight")
        self._weights.setdefault(group, []).append(weight)

    def show(self, out: Path, num_bytes_before: int, num_bytes_after: int) -> None:
        """num_bytes_before, num_bytes_after: of all tensors of both checkpoints."""
        console = Console(highlight=False)
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in ("bits/weight", "error", "worst row"):
            table.add_column(name, justify="right")
        table.add_column("formats", overflow="fold")
        for group, weights in self._weights.items():
            table.add_row(group, *self._cells(weights))
        console.print(table)
        console.print(
            "error: of a row's weights, RMS, by the mean of their magnitudes; 0.01 in int8 and "
            "0.1 in int4 are ordinary",
            soft_wrap=True,
        )
        everything = [weight for weights in self._weights.values() for weight in weights]
        share = num_bytes_after / max(1, num_bytes_before)
        console.print(
            f"{out}: {size_text(num_bytes_after)}, {share:.0%} of the {size_text(num_bytes_before)}"
            f" before; {_bits(everything):.2f} bits per weight of linear layers",
            soft_wrap=True,
            markup=False,
        )

    def _cells(self, weights: Sequence[QuantizedWeight]) -> tuple[str, ...]:
        num_weights = sum(w.num_weights for w in weights)
        error = math.sqrt(sum(w.num_weights * w.row_error**2 for w in weights) / num_weights)
        worst = max(w.worst_row_error for w in weights)
        formats = [_named(w) for w in weights if w.format != self._format]
        if len(formats) < len(weights):
            formats.insert(0, self._format)
        return f"{_bits(weights):.2f}", f"{error:.4f}", f"{worst:.4f}", "; ".join(formats)


def _bits(weights: Sequence[QuantizedWeight]) -> float:
    return 8 * sum(w.num_bytes for w in weights) / sum(w.num_weights for w in weights)


def _named(weight: QuantizedWeight) -> str:
    module = weight.name.removesuffix(".weight").rpartition(".")[2]
    text = f"{module} {weight.format}"
    if not weight.refused:
        return text
    tried = ", ".join(f"{error:.2f} in {name}" for name, error in weight.refused.items())
    return f"{text} (worst row {tried})"
