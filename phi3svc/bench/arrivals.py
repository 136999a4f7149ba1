"""When requests arrive in an open loop: a Poisson process, the same one for the same seed."""

from __future__ import annotations

import itertools
import random


def poisson_arrivals(rate: float, num_requests: int, seed: int) -> list[float]:
    """Seconds from the start of the run, ascending; the first is 0, and so are all at rate 0.

    rate: requests per second. Gaps are exponential with mean 1 / rate, whatever the server does.
    """
    if rate == 0:
        return [0.0] * num_requests
    draws = random.Random(f"arrivals:{seed}")
    gaps = (draws.expovariate(rate) for _ in range(num_requests - 1))
    return list(itertools.accumulate(gaps, initial=0.0))
