"""The RoPE family in float64, plainly, from its papers and Microsoft's and DeepSeek's formulas.

Angular frequencies w_i, i = 0..R/2-1, in radians per position: `plain` (Su et al. 2021), `linear`
(position interpolation, Chen et al. 2023), `ntk` (dynamic NTK-aware scaling), `yarn` (Peng et al.
2023, the ramp over dims as its code has it), `longrope` (Ding et al. 2024). And what cos and sin
are multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Frequencies = NDArray[np.float64]


def plain(theta: float, dim: int) -> Frequencies:
    return np.array([theta ** (-2 * i / dim) for i in range(dim // 2)])


def linear(theta: float, dim: int, factor: float) -> Frequencies:
    return plain(theta, dim) / factor


def ntk(theta: float, dim: int, factor: float, original: int, num_tokens: int) -> Frequencies:
    """The base grown so far that the slowest dim turns as linear scaling would have it."""
    stretch = factor * max(num_tokens, original) / original - (factor - 1)
    return plain(theta * stretch ** (dim / (dim - 2)), dim)


def yarn(
    theta: float,
    dim: int,
    factor: float,
    original: int,
    beta_fast: float = 32,
    beta_slow: float = 1,
    truncate: bool = True,
) -> Frequencies:
    def dim_with_turns(turns: float) -> float:
        """i with original · w_i = 2π · turns."""
        return dim * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = dim_with_turns(beta_fast), dim_with_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    w = plain(theta, dim)
    for i in range(dim // 2):
        interpolated = min(max((i - low) / (high - low), 0), 1)
        w[i] *= (1 - interpolated) + interpolated / factor
    return w


def longrope(theta: float, divisors: Sequence[float]) -> Frequencies:
    return plain(theta, 2 * len(divisors)) / np.array(divisors)


def longrope_scale(stretch: float, original: int) -> float:
    return math.sqrt(1 + math.log(stretch, original))


def yarn_scale(stretch: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(stretch) + 1


def cos_sin(w: Frequencies, positions: Sequence[int], scale: float = 1.0) -> Frequencies:
    """[n, R/2, 2]."""
    angles = np.array(positions, dtype=np.float64)[:, None] * w
    return scale * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
