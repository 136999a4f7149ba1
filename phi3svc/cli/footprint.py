"""What a model takes in memory, and how long a sequence fits beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from phi3svc.config.engine import BLOCK_SIZE
from phi3svc.config.model import BYTES_PER_ELEMENT, DType, KVDType, Phi3Config

DTYPES: tuple[DType, ...] = ("float32", "bfloat16")

PROCESS_BYTES = 600 << 20
"""Kept free of keys and values: the processes themselves, workspaces, RoPE tables."""


@dataclass(frozen=True)
class Footprint:
    """One way to serve a checkpoint.

    context_tokens: the longest sequence that can be served so, 0 if not even the weights fit.
    limited_by: what keeps it from being longer, "model" or "memory". kv_memory_bytes: what its keys
    and values take.
    """

    dtype: DType
    kv_dtype: KVDType
    weights_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    limited_by: Literal["model", "memory"]

    @property
    def kv_memory_bytes(self) -> int:
        num_blocks = -(-self.context_tokens // BLOCK_SIZE)
        return num_blocks * BLOCK_SIZE * self.kv_bytes_per_token


def footprints(config: Phi3Config, num_params: int, free_bytes: int) -> Iterator[Footprint]:
    """Every combination of dtypes that is served, in `free_bytes` of memory."""
    largest = config.hidden_size * max(
        config.vocab_size, 2 * config.intermediate_size, config.qkv_features
    )
    for dtype in DTYPES:
        weights_bytes = num_params * BYTES_PER_ELEMENT[dtype]
        # A tensor is there as it was read, or as converted, until it is packed: `load_network`.
        unpacked_bytes = largest * max(BYTES_PER_ELEMENT[config.dtype], BYTES_PER_ELEMENT[dtype])
        is_loadable = free_bytes >= weights_bytes + unpacked_bytes
        room = max(0, free_bytes - weights_bytes - PROCESS_BYTES) if is_loadable else 0
        kv_dtypes: tuple[KVDType, ...] = (dtype, "int8")
        for kv_dtype in kv_dtypes:
            per_token = config.kv_bytes_per_token(kv_dtype)
            fits = room // (per_token * BLOCK_SIZE) * BLOCK_SIZE
            yield Footprint(
                dtype,
                kv_dtype,
                weights_bytes,
                per_token,
                min(fits, config.context_len),
                "model" if fits >= config.context_len else "memory",
            )
