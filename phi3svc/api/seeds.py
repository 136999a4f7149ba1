"""Seeds of what is sampled without one being given."""

from __future__ import annotations

import torch

_MAX_SEED = (1 << 63) - 1


def draw_seeds(num_seeds: int) -> list[int]:
    """From torch's generator, so that torch.manual_seed makes a script repeat itself."""
    return torch.randint(_MAX_SEED, (num_seeds,)).tolist()
