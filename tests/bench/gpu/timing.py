"""Time on a device: the work is queued, and the device's own clock is read around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(
    call: Callable[[], object], device: torch.device, budget_s: float = 1.0
) -> float:
    """Of one call, after warming up: at least five calls, as many as fit in `budget_s` seconds."""
    for _ in range(2):
        call()
    first = _seconds(call, device)
    rounds = max(5, min(200, int(budget_s / max(first, 1e-6))))
    return statistics.median(_seconds(call, device) for _ in range(rounds))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
