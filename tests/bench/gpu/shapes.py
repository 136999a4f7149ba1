"""Shapes of the models that are measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes as config.json names them, with the letters of `ops` behind them."""

    num_layers: int
    hidden_size: int  # E
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # D
    mlp_width: int  # F
    vocab_size: int  # V

    @property
    def qkv_rows(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Numbers in the linear weights of one layer."""
        attention = self.qkv_rows + self.num_heads * self.head_dim
        return self.hidden_size * (attention + 3 * self.mlp_width)

    @property
    def step_weights(self) -> int:
        """Numbers that a decode step reads of the weights: all layers and the head."""
        return self.num_layers * self.layer_weights + self.vocab_size * self.hidden_size


SHAPES = {
    "mini": Shape(32, 3072, 32, 32, 96, 8192, 32064),
    "medium": Shape(40, 5120, 40, 10, 128, 17920, 32064),
    "tiny": Shape(2, 64, 4, 2, 32, 96, 320),
}
"""Phi-3-mini, Phi-3-medium, and one to try the benchmark itself on."""
