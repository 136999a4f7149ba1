"""Cosines and sines of the rotary position embedding; the only place that uses the factor lists."""

from __future__ import annotations

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config

_BLOCK = 256  # positions computed at a time


class RopeTables:
    """`table`, float32 [S, n, R/2, 2]: (cos, sin) by factor set and position; grows on demand.

    S is 1, or 2 with LongRoPE: set 0 from the short factors and set 1 from the long ones, both
    times the attention factor, as in transformers' `_compute_longrope_parameters`. Which set a
    sequence uses is `Phi3Config.rope_set`.
    """

    def __init__(self, config: Phi3Config) -> None:
        rope = config.rope
        # float32 where transformers has float32, so that the angles are the same numbers.
        exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.int64).float() / rope.rotary_dim
        factors = torch.ones(1, rope.rotary_dim // 2)
        if config.is_longrope:
            factors = torch.tensor([rope.short_factor, rope.long_factor], dtype=torch.float32)
        self._inv_freq = 1.0 / (factors * rope.theta**exponents)  # [S, R/2]
        self._attention_factor = rope.attention_factor
        self.table = torch.empty(len(factors), 0, rope.rotary_dim // 2, 2)

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
        self.table = torch.cat([self.table, *blocks], dim=1)

    def _block(self, start: int) -> Tensor:
        """Positions start..start+255 as [S, 256, R/2, 2]."""
        positions = torch.arange(start, start + _BLOCK, dtype=torch.float32)
        angles = positions[None, :, None] * self._inv_freq[:, None, :]
        exact = angles.double()  # cos and sin then are right to the last bit of float32
        pairs = torch.stack((exact.cos(), exact.sin()), dim=-1).float()
        return pairs * self._attention_factor
