"""Cosines and sines of the rotary position embedding; the only place that uses the factor lists."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phi3svc.config.rope import RopeConfig

_BLOCK = 256  # positions computed at a time


class RopeTables:
    """`table`, float32 [S, n, R/2, 2]: (cos, sin) by factor set and position; grows on demand.

    Float32 whatever the model's dtype. S is 1; 2 with LongRoPE, for the short and the long factors;
    with dynamic NTK, one per doubling of the original length. Each is times its attention factor.
    Which set a sequence uses is `Phi3Config.rope_set`.
    """

    def __init__(self, rope: RopeConfig, device: torch.device | str = "cpu") -> None:
        """device: of `table`. It is computed on the CPU, for the same bits everywhere."""
        self._inv_freq = inverse_frequencies(rope)
        self._position_scale = rope.position_scale
        self._attention_factors = torch.tensor(rope.attention_factors)[:, None, None, None]
        self.table = torch.empty(rope.num_sets, 0, rope.rotary_dim // 2, 2, device=device)

    @property
    def num_positions(self) -> int:
        """Positions that `table` holds."""
        return self.table.shape[1]

    def ensure(self, num_positions: int) -> None:
        """Make `table` hold the positions below `num_positions`; what it holds keeps its bits.

        Positions are computed in aligned blocks of one size, so no value depends on how the table
        came to its length.
        """
        held = self.num_positions
        if num_positions <= held:
            return
        wanted = -(-max(num_positions, 2 * held) // _BLOCK) * _BLOCK
        blocks = [self._block(start) for start in range(held, wanted, _BLOCK)]
        added = torch.cat(blocks, dim=1).to(self.table.device)
        self.table = torch.cat([self.table, added], dim=1)

    def _block(self, start: int) -> Tensor:
        """Positions start..start+255 as [S, 256, R/2, 2]."""
        positions = torch.arange(start, start + _BLOCK, dtype=torch.float32) * self._position_scale
        angles = positions[None, :, None] * self._inv_freq[:, None, :]
        exact = angles.double()  # cos and sin then are right to the last bit of float32
        pairs = torch.stack((exact.cos(), exact.sin()), dim=-1).float()
        return pairs * self._attention_factors


def inverse_frequencies(rope: RopeConfig) -> Tensor:
    """Radians per position, float32 [S, R/2].

    Computed in float32 and in the order of transformers' `modeling_rope_utils.py`, so that the
    angles are the same numbers; at position 131071 an ulp more is a hundredth of a radian.
    """
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.int64).float() / rope.rotary_dim
    match rope.rope_type:
        case "longrope":
            factors = torch.tensor([rope.short_factor, rope.long_factor], dtype=torch.float32)
            return 1.0 / (factors * rope.theta**exponents)
        case "dynamic":
            bases = [_dynamic_base(rope, set_idx) for set_idx in range(rope.num_sets)]
            return torch.stack([1.0 / base**exponents for base in bases])
        case "yarn":
            return _yarn(rope, rope.theta**exponents)[None]
        case "linear":
            return (1.0 / rope.theta**exponents)[None] / rope.factor
        case "default":
            return (1.0 / rope.theta**exponents)[None]


def _dynamic_base(rope: RopeConfig, set_idx: int) -> float:
    """theta · (factor · n / original - (factor - 1))^(R / (R - 2)) for a sequence of n tokens.

    `_compute_dynamic_ntk_parameters` in transformers.
    """
    ratio = rope.dynamic_len(set_idx) / rope.original_max_position_embeddings
    growth = rope.factor * ratio - (rope.factor - 1)
    return rope.theta * math.pow(growth, rope.rotary_dim / (rope.rotary_dim - 2))


def _yarn(rope: RopeConfig, periods: Tensor) -> Tensor:
    """Unchanged where the ramp is 0, divided by the factor where it is 1; [R/2].

    periods: positions per radian, [R/2]. YaRN, Peng et al. 2023, section 3.2;
    `_compute_yarn_parameters` in transformers.
    """
    low = _dim_of(rope, rope.beta_fast)
    high = _dim_of(rope, rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low or 1e-3
    ramp = ((torch.arange(len(periods), dtype=torch.float32) - low) / width).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (rope.factor * periods) * (1 - kept) + 1.0 / periods * kept


def _dim_of(rope: RopeConfig, num_turns: float) -> float:
    """Which pair of dims, as a fraction, turns so often within the original length."""
    per_radian = rope.original_max_position_embeddings / (num_turns * 2 * math.pi)
    return rope.rotary_dim * math.log(per_radian) / (2 * math.log(rope.theta))
