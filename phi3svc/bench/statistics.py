"""Percentiles of a sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of ascending values, at least one; linear between the two nearest, as numpy does it."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Summary:
    """A sample in seven numbers, in its own unit."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """None for an empty sample."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(
            len(ordered),
            math.fsum(ordered) / len(ordered),
            percentile(ordered, 50),
            percentile(ordered, 90),
            percentile(ordered, 95),
            percentile(ordered, 99),
            ordered[-1],
        )
