"""Where a network gets its weights: ready to use, by the names of today's transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.ops import PackedLinear

Rows = Callable[[Tensor], Tensor]
"""Puts the rows of a checkpoint's tensor into the order in which the network has them."""


class Heads(NamedTuple):
    """Of which the rows of q | k | v are: H, K, and R, how many dims of one are rotated."""

    num_heads: int
    num_kv_heads: int
    rotary_dim: int

    @classmethod
    def of(cls, config: Phi3Config) -> Heads:
        return cls(config.num_attention_heads, config.num_key_value_heads, config.rope.rotary_dim)


class WeightSource(Protocol):
    """Weights in the formats in which they are served.

    format: of linear weights, unless one has to keep more bits; dtype: A, of all others. What is
    asked for by `rows` has its rows in that order; a source whose rows are in order already has no
    use for it.
    """

    @property
    def format(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __contains__(self, name: str) -> bool: ...

    def plain(self, name: str, rows: Rows | None = None) -> Tensor:
        """The tensor `name`, of dtype A."""
        ...

    def linear(self, name: str, rows: Rows | None = None) -> PackedLinear:
        """The weight `name`, packed as by `ops.pack_linear`."""
        ...

    def qkv(self, name: str, heads: Heads, rows: Rows | None = None) -> PackedLinear:
        """The weight `name`, rows q | k | v, packed as by `ops.pack_qkv`."""
        ...

    def gate_up(self, name: str, rows: Rows | None = None) -> PackedLinear:
        """The weight `name`, rows gate | up, packed as by `ops.pack_gate_up`."""
        ...


def dtype_of(format: str) -> torch.dtype:
    """A of a model whose linear weights have this format."""
    return torch.float32 if format == "float32" else torch.bfloat16
