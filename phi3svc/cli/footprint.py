"""What a model takes in memory, and how long a sequence fits beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from phi3svc.config.engine import BLOCK_SIZE
from phi3svc.config.model import BYTES_PER_ELEMENT, DType, KVDType, Phi3Config
from phi3svc.config.quantization import Quantization

DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
QUANTIZATIONS = (Quantization(8), Quantization(4))

PROCESS_BYTES = 600 << 20
"""Kept free of keys and values: the processes themselves, workspaces, RoPE tables."""


@dataclass(frozen=True)
class Footprint:
    """One way to serve a checkpoint.

    context_tokens: the longest sequence that can be served so, 0 if not even the weights fit.
    limited_by: what keeps it from being longer, "model" or "memory". kv_memory_bytes: what its keys
    and values take.
    """

    dtype: str
    kv_dtype: KVDType
    weights_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    limited_by: Literal["model", "memory"]

    @property
    def kv_memory_bytes(self) -> int:
        num_blocks = -(-self.context_tokens // BLOCK_SIZE)
        return num_blocks * BLOCK_SIZE * self.kv_bytes_per_token


def weights_bytes(config: Phi3Config, num_params: int) -> dict[str, int]:
    """What the weights of a checkpoint take in every dtype that it can be served in.

    Those in int8 and int4 may take more, if some have to keep more bits. num_params: of the files.
    """
    sizes: dict[str, int] = {dtype: num_params * BYTES_PER_ELEMENT[dtype] for dtype in DTYPES}
    linears = config.num_hidden_layers * [
        (config.qkv_features, config.hidden_size),
        (config.hidden_size, config.num_attention_heads * config.head_dim),
        (2 * config.intermediate_size, config.hidden_size),
        (config.hidden_size, config.intermediate_size),
    ]
    head = (config.vocab_size, config.hidden_size)
    heads = [head] if config.task == "generation" else []
    num_others = num_params - sum(math.prod(shape) for shape in linears + heads)
    for quantization in QUANTIZATIONS:
        sizes[quantization.dtype] = (
            sum(quantization.packed_bytes(*shape) for shape in linears)
            + sum(Quantization(8).packed_bytes(*shape) for shape in heads)
            + num_others * BYTES_PER_ELEMENT["bfloat16"]
        )
    return sizes


def footprints(
    config: Phi3Config, sizes: Mapping[str, int], free_bytes: int
) -> Iterator[Footprint]:
    """Every combination of dtypes that is served, in `free_bytes` of memory.

    sizes: bytes of the weights, by dtype.
    """
    embedding = config.hidden_size * config.vocab_size
    largest = config.hidden_size * max(2 * config.intermediate_size, config.qkv_features)
    for dtype, num_bytes in sizes.items():
        model_dtype: DType = "float32" if dtype == "float32" else "bfloat16"
        # A tensor is there as it was read, or as converted, until it is packed, and those of the
        # embedding and the head before any other: `load_network`.
        unpacked = max(BYTES_PER_ELEMENT[config.dtype], BYTES_PER_ELEMENT[model_dtype])
        peak_bytes = max(num_bytes + largest * unpacked, 3 * embedding * unpacked)
        is_loadable = free_bytes >= (num_bytes if config.quantization else peak_bytes)
        room = max(0, free_bytes - num_bytes - PROCESS_BYTES) if is_loadable else 0
        kv_dtypes: tuple[KVDType, ...] = (model_dtype, "int8")
        for kv_dtype in kv_dtypes:
            per_token = config.kv_bytes_per_token(kv_dtype)
            fits = room // (per_token * BLOCK_SIZE) * BLOCK_SIZE
            yield Footprint(
                dtype,
                kv_dtype,
                num_bytes,
                per_token,
                min(fits, config.context_len),
                "model" if fits >= config.context_len else "memory",
            )
