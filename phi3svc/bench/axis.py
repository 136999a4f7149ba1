"""From values to places on a line, and the round numbers to mark on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phi3svc.bench.results import nice_step

MAX_TICKS = 6
LOG_FROM_RATIO = 20.0
"""Values that differ by more than this are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """low, high: the values at its ends; start, end: their places. is_log: needs low > 0."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """One that shows all of the values, logarithmic if they need it."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if 0 < low * LOG_FROM_RATIO < high:
            return cls(low / 1.1, high * 1.1, start, end, is_log=True)
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return cls(max(0.0, low - margin) if low >= 0 else low - margin, high + margin, start, end)

    def place(self, value: float) -> float:
        if self.is_log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 or 5 times powers of ten, within the ends."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            is_wide = self.high / self.low > 1000
            ticks = [m * 10.0**p for p in powers for m in ((1,) if is_wide else (1, 2, 5))]
        else:
            step = nice_step(self.high - self.low, MAX_TICKS)
            first = math.ceil(self.low / step)
            ticks = [i * step for i in range(first, math.floor(self.high / step) + 1)]
        return [tick for tick in ticks if self.low <= tick <= self.high]
