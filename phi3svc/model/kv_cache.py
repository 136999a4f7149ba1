"""Memory for the keys and values of every sequence, in pages."""

from __future__ import annotations

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config


class KVCache:
    """`layers[i]` is layer i's (k_pages, v_pages), shaped as `ops.kv_cache_shapes` says.

    One page id stands for the same P tokens in all layers. Pages start as whatever memory holds:
    kernels read no slot that was not written.
    """

    def __init__(
        self,
        config: Phi3Config,
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        k_shape, v_shape = ops.kv_cache_shapes(
            num_pages, config.num_key_value_heads, config.head_dim, dtype
        )
        self.num_pages = num_pages
        self.layers: list[tuple[Tensor, Tensor]] = [
            (
                torch.empty(k_shape, dtype=dtype, device=device),
                torch.empty(v_shape, dtype=dtype, device=device),
            )
            for _ in range(config.num_hidden_layers)
        ]
