"""What a model takes in memory, and how long a sequence fits beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from phi3svc.config.engine import BLOCK_SIZE
from phi3svc.config.model import BYTES_PER_ELEMENT, DType, KVDType, Phi3Config
from phi3svc.config.quantization import INTEGER_DTYPES, Quantization

DTYPES: tuple[DType, ...] = get_args(DType)

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
    linears = [
        (config.qkv_features, config.hidden_size),
        (config.hidden_size, config.num_attention_heads * config.head_dim),
        (config.hidden_size, config.intermediate_size),
    ]
    gate_up = (2 * config.intermediate_size, config.hidden_size)
    head = (config.vocab_size, config.hidden_size)
    num_heads = 1 if config.task == "generation" else 0
    num_quantized = num_heads * math.prod(head) + config.num_hidden_layers * sum(
        math.prod(shape) for shape in (*linears, gate_up)
    )
    for dtype in INTEGER_DTYPES:
        scheme = _scheme(dtype)
        layer_bytes = scheme.packed_bytes(*gate_up, is_gate_up=True) + sum(
            scheme.packed_bytes(*shape) for shape in linears
        )
        sizes[dtype] = (
            config.num_hidden_layers * layer_bytes
            + num_heads * scheme.head.packed_bytes(*head)
            + (num_params - num_quantized) * BYTES_PER_ELEMENT["bfloat16"]
        )
    return sizes


def footprints(
    config: Phi3Config, sizes: Mapping[str, int], free_bytes: int
) -> Iterator[Footprint]:
    """Every combination of dtypes that is served, in `free_bytes` of memory.

    sizes: bytes of the weights, by dtype.
    """
    for dtype, num_bytes in sizes.items():
        model_dtype = _model_dtype(dtype)
        is_packed = config.quantization is not None
        needed_bytes = num_bytes if is_packed else _peak_bytes(config, dtype, num_bytes)
        is_loadable = free_bytes >= needed_bytes
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


def _peak_bytes(config: Phi3Config, dtype: str, num_bytes: int) -> int:
    """The most that `load_network` needs on the way to `num_bytes` of weights.

    The embedding and the head come before any layer, which need most when all is packed but the
    last one's largest weight.
    """
    largest = config.hidden_size * max(2 * config.intermediate_size, config.qkv_features)
    on_the_way = _bits_on_the_way(config.dtype, dtype, is_reordered=config.small is not None)
    layers = num_bytes + largest * (on_the_way - _bits(dtype)) // 8
    embedding = config.hidden_size * config.vocab_size
    head_dtype = dtype if dtype in DTYPES else _scheme(dtype).head.dtype
    ends = _bits(_model_dtype(dtype)) + _bits_on_the_way(config.dtype, head_dtype)
    return max(layers, embedding * ends // 8)


def _bits_on_the_way(stored: str, dtype: str, is_reordered: bool = False) -> int:
    """Bits that are alive of a weight at most while it is read, converted, reordered and packed."""
    before, plain = _bits(stored), _bits(_model_dtype(dtype))
    converted = before + plain if before != plain else 0
    return max(converted, 2 * plain if is_reordered else 0, plain + _bits(dtype))


def _model_dtype(dtype: str) -> DType:
    return "float32" if dtype == "float32" else "bfloat16"


def _bits(dtype: str) -> int:
    return 8 * BYTES_PER_ELEMENT[dtype] if dtype in DTYPES else _scheme(dtype).bits


def _scheme(dtype: str) -> Quantization:
    scheme = Quantization.of(dtype)
    assert scheme is not None
    return scheme
