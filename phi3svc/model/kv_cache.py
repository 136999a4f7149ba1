"""Memory for the keys and values of every sequence, in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import KVDType, Phi3Config
from phi3svc.errors import ConfigError


class KVCache:
    """`layers[i]` is layer i's (k_pages, v_pages), shaped as `ops.kv_cache_shapes` says.

    `scales[i]` are the (k_scales, v_scales) of int8 pages, (None, None) of others. One page id
    stands for the same P tokens in all layers. Pages start as whatever memory holds: kernels read
    no slot that was not written.
    """

    def __init__(
        self,
        config: Phi3Config,
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """dtype: the model's, int8 on a CPU, or float8_e4m3fn on CUDA."""
        num_kv_heads = config.num_key_value_heads
        k_shape, v_shape = ops.kv_cache_shapes(
            num_pages, num_kv_heads, config.head_dim, dtype, device
        )
        scales_shape = ops.kv_scales_shape(num_pages, num_kv_heads)
        self.num_pages = num_pages
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.scales: list[tuple[Tensor, Tensor] | tuple[None, None]] = []
        for _ in range(config.num_hidden_layers):
            k_pages = torch.empty(k_shape, dtype=dtype, device=device)
            v_pages = torch.empty(v_shape, dtype=dtype, device=device)
            self.layers.append((k_pages, v_pages))
            if dtype == torch.int8:
                k_scales = torch.empty(scales_shape, dtype=torch.float32, device=device)
                self.scales.append((k_scales, torch.empty_like(k_scales)))
            else:
                self.scales.append((None, None))

    def copy_pages(
        self, source: KVCache, source_ids: Sequence[int], target_ids: Sequence[int]
    ) -> None:
        """Copy pages of `source`, which is this cache or another of the model, in all layers."""
        ids = list(zip(source_ids, target_ids, strict=True))
        theirs = (*source.layers, *source.scales)
        for target_pair, source_pair in zip((*self.layers, *self.scales), theirs, strict=True):
            for target, pages in zip(target_pair, source_pair, strict=True):
                if target is not None and pages is not None:
                    # Page by page: indexing with all ids was measured two to four times slower.
                    for source_id, target_id in ids:
                        target[target_id].copy_(pages[source_id])


_SMALL_KV_DTYPES = {"cpu": "int8", "cuda": "fp8"}


def check_kv_dtype(
    kv_dtype: str, device: torch.device | str = "cpu", model: str | None = None
) -> None:
    """Raise ConfigError if a device's ops have no such pages. model: its name, for the message."""
    allowed = ("auto", _SMALL_KV_DTYPES[ops.backend(device)])
    if kv_dtype not in allowed:
        whose = "" if model is None else f" for model {model!r}"
        raise ConfigError(
            f"engine.kv_dtype={kv_dtype!r}: must be {' or '.join(allowed)}{whose} on {device}"
        )


def page_dtype(
    kv_dtype: str, model_dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.dtype:
    """What pages hold under the setting `engine.kv_dtype`: "auto", "int8" or "fp8".

    Raises ConfigError as `check_kv_dtype` does.
    """
    check_kv_dtype(kv_dtype, device)
    return {"auto": model_dtype, "int8": torch.int8, "fp8": torch.float8_e4m3fn}[kv_dtype]


def page_bytes(config: Phi3Config, dtype: torch.dtype) -> int:
    """Bytes that one page takes in all layers. dtype: of `page_dtype`."""
    name = "fp8" if dtype == torch.float8_e4m3fn else str(dtype).removeprefix("torch.")
    return ops.PAGE_SIZE * config.kv_bytes_per_token(cast(KVDType, name))
