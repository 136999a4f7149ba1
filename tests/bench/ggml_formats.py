"""What llama.cpp's weight formats make of a weight, to compare errors with ours.

Q8_0, Q4_0 and Q4_1 are written out here from their definitions: blocks of 32 weights, each with a
half-precision scale, Q4_1 with a minimum as well. Q4_K, blocks of 256 with six-bit scales and
minima of groups of 32, comes from llama.cpp's own library, where the peers' environment has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 32
ROOT = Path(__file__).resolve().parents[2]
_Q4_K = 12  # ggml_type
_Q4_K_BYTES = 144  # of 256 weights


def _half(scale: Tensor) -> Tensor:
    return scale.half().float()


def _blocks(weight: Tensor) -> Tensor:
    return weight.view(len(weight), -1, BLOCK)


def q8_0(weight: Tensor) -> Tensor:
    """[n, k] float32 as Q8_0 holds it."""
    blocks = _blocks(weight)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale).round() * _half(scale)).view_as(weight)


def q4_0(weight: Tensor) -> Tensor:
    """As Q4_0: the largest weight of a block is -8, whatever its sign."""
    blocks = _blocks(weight)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    return (((blocks / scale + 8.5).floor().clamp(0, 15) - 8) * _half(scale)).view_as(weight)


def q4_1(weight: Tensor) -> Tensor:
    """As Q4_1: the range of a block in 15 steps."""
    blocks = _blocks(weight)
    low = blocks.amin(-1, keepdim=True)
    scale = (blocks.amax(-1, keepdim=True) - low) / 15
    steps = ((blocks - low) / scale + 0.5).floor().clamp(0, 15)
    return (steps * _half(scale) + _half(low)).view_as(weight)


def _q4_k(ggml: ctypes.CDLL, weight: Tensor) -> Tensor:
    num_rows, num_columns = weight.shape
    weight, out = weight.contiguous(), torch.empty_like(weight)
    packed = torch.empty(weight.numel() // 256 * _Q4_K_BYTES, dtype=torch.uint8)
    source, middle, target = (ctypes.c_void_p(t.data_ptr()) for t in (weight, packed, out))
    sizes = (ctypes.c_int64(size) for size in (0, num_rows, num_columns))
    ggml.ggml_quantize_chunk(_Q4_K, source, middle, *sizes, None)
    ggml.dequantize_row_q4_K(middle, target, ctypes.c_int64(weight.numel()))
    return out


def ggml_formats() -> dict[str, tuple[float, Callable[[Tensor], Tensor]]]:
    """Bits per weight, and the rounding, by name; Q4_K only where `make bench-peers` was run."""
    formats = {"Q8_0": (8.5, q8_0), "Q4_0": (4.5, q4_0), "Q4_1": (5.0, q4_1)}
    pattern = ".venv-peers/lib/python3*/site-packages/llama_cpp/lib/libggml-base.so"
    for library in ROOT.glob(pattern):
        formats["Q4_K"] = (4.5, partial(_q4_k, ctypes.CDLL(str(library))))
    return formats
