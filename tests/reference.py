"""Every op of `phi3svc.ops` again in plain torch, written for reading.

No packing, no pages, no blocking, no in-place writes. A function computes in the dtype of its
arguments: on float64 copies it is the oracle, on bfloat16 tensors it is the naive low-precision
computation that a kernel must not be worse than. Shape letters as in `phi3svc.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.ops import BlockSparse

PAGE_SIZE = 16


def embedding(token_ids: Tensor, table: Tensor, scale: float = 1.0) -> Tensor:
    """[T], [V, E] → [T, E]"""
    return table[token_ids.long()] * scale


def rms_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[T, E], [E] → [T, E]"""
    return weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps))


def layer_norm(h: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """[T, E], [E], [E] → [T, E]"""
    deviation = h - h.mean(-1, keepdim=True)
    return weight * (deviation * torch.rsqrt(deviation.pow(2).mean(-1, keepdim=True) + eps)) + bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[T, k], [n, k], [n] → [T, n]"""
    y = x @ weight.T
    return y if bias is None else y + bias


def gegelu(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """Phi-3-small's activation, of any shape: quick gelu of one half times the other plus 1."""
    a = torch.where(gate.isinf(), gate, gate.clamp(max=limit))
    b = torch.where(up.isinf(), up, up.clamp(-limit, limit))
    return a * torch.sigmoid(1.702 * a) * (b + 1)


def activation(
    x: Tensor, gate_up: Tensor, bias: Tensor | None = None, gegelu_limit: float | None = None
) -> Tensor:
    """SwiGLU or gegelu: [T, E], [2F, E] with rows [gate | up], [2F] → [T, F]"""
    gate, up = linear(x, gate_up, bias).chunk(2, dim=-1)
    if gegelu_limit is not None:
        return gegelu(gate, up, gegelu_limit)
    return up * torch.nn.functional.silu(gate)


def mlp(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    gegelu_limit: float | None = None,
) -> Tensor:
    """What the MLP adds to the residual stream: [T, E] → [T, E]"""
    return linear(activation(x, gate_up, gate_up_bias, gegelu_limit), down, down_bias)


def head(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_bias: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """lm_head and classify_head: [T, E] → [n, V]"""
    h = h[rows.long()]
    if norm_bias is None:
        normed = rms_norm(h, norm_weight, eps)
    else:
        normed = layer_norm(h, norm_weight, norm_bias, eps)
    logits = scale * linear(normed, weight)
    return logits if bias is None else logits + bias


def rotate(y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dims of [T, heads, D] by angles given as cos, sin [T, R/2]."""
    half = cos.shape[-1]
    a, b, rest = y[..., :half], y[..., half : 2 * half], y[..., 2 * half :]
    cos, sin = cos[:, None, :].to(y.dtype), sin[:, None, :].to(y.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class QKV(NamedTuple):
    q: Tensor  # [T, H, D]
    k: Tensor  # [T, K, D]
    v: Tensor  # [T, K, D]


def qkv_rope(
    x: Tensor,
    weight: Tensor,
    positions: Tensor,
    rope_sets: Tensor,
    rope_table: Tensor,
    num_heads: int,
    num_kv_heads: int,
    bias: Tensor | None = None,
) -> QKV:
    """[T, E], [(H + 2K)·D, E], [T], [T], [S, max_pos, R/2, 2] → rotated q and k, and v"""
    head_dim = weight.shape[0] // (num_heads + 2 * num_kv_heads)
    y = linear(x, weight, bias).unflatten(-1, (-1, head_dim))
    q, k, v = y.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    cos, sin = rope_table[rope_sets.long(), positions.long()].unbind(-1)
    return QKV(rotate(q, cos, sin), rotate(k, cos, sin), v)


def visible(
    num_keys: int,
    num_queries: int,
    num_heads: int,
    window: int,
    block_sparse: BlockSparse | None = None,
) -> Tensor:
    """Which of n keys the last t queries see, bool [H, t, n]"""
    position = torch.arange(num_keys - num_queries, num_keys)[:, None]
    key = torch.arange(num_keys)[None, :]
    seen = key <= position
    if window:
        seen &= key > position - window
    seen = seen.expand(num_heads, -1, -1)
    if block_sparse is None:
        return seen
    query_block, key_block = position // block_sparse.block_size, key // block_sparse.block_size
    head = torch.arange(num_heads)[:, None, None]
    is_local = query_block - key_block < block_sparse.num_local_blocks
    is_vertical = (
        key_block + head * block_sparse.head_step + 1
    ) % block_sparse.vertical_stride == 0
    return seen & (is_local | is_vertical)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    scale: float,
    block_sparse: BlockSparse | None = None,
) -> Tensor:
    """One sequence's last t queries over all of its n keys.

    q: [t, H, D]; k, v: [n, K, D] → [t, H·D]
    """
    num_queries, num_heads, _ = q.shape
    num_keys, num_kv_heads, _ = k.shape
    group = num_heads // num_kv_heads
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    seen = visible(num_keys, num_queries, num_heads, window, block_sparse)

    scores = torch.einsum("thd,nhd->htn", q, k) * scale
    scores = scores.masked_fill(~seen, -math.inf)
    probabilities = torch.softmax(scores, dim=-1)
    return torch.einsum("htn,nhd->thd", probabilities, v).flatten(1)


# Int8 keys and values ----------------------------------------------------------------------------


class Quantized(NamedTuple):
    stored: Tensor  # int8 [..., D]
    scales: Tensor  # float32 [...], one per head

    def restored(self) -> Tensor:
        """What the stored numbers stand for, float64."""
        return self.stored.double() * self.scales.double()[..., None]


def quantize(heads: Tensor) -> Quantized:
    """float32 [..., D] → int8 and scales max|x| / 127; zeros have 0, what is not finite NaN."""
    scales = heads.abs().amax(-1) / 127
    ratio = (heads / scales[..., None]).round().clamp(-127, 127)  # ties to even
    is_zero = (scales == 0) | ~scales.isfinite()
    stored = torch.where(is_zero[..., None], 0.0, ratio).to(torch.int8)
    return Quantized(stored, torch.where(scales.isinf(), math.nan, scales))


# Layouts -----------------------------------------------------------------------------------------


def pack_panels(weight: Tensor) -> Tensor:
    """[n, k] → [ceil(n/16), k, 16], or for bfloat16 [ceil(n/16), ceil(k/2), 16, 2]

    On CUDA rows and columns keep their places: [16·ceil(n/16), 16·ceil(k/16)].
    """
    num_rows, width = weight.shape
    if ops.backend(weight.device) == "cuda":
        return torch.nn.functional.pad(weight, (0, -width % 16, 0, -num_rows % 16))
    odd = width % 2 if weight.dtype == torch.bfloat16 else 0
    padded = torch.nn.functional.pad(weight, (0, odd, 0, -num_rows % 16))
    panels = padded.unflatten(0, (-1, 16))  # [panels, 16, k]
    if weight.dtype == torch.bfloat16:
        return panels.unflatten(2, (-1, 2)).transpose(1, 2).contiguous()
    return panels.transpose(1, 2).contiguous()


def pack_gate_up_panels(weight: Tensor) -> Tensor:
    """[2F, E] → panels that alternate gate and up, each half padded by itself

    On CUDA rows alternate.
    """
    if ops.backend(weight.device) == "cuda":
        return pack_panels(torch.stack(weight.chunk(2), dim=1).flatten(0, 1))
    gate, up = (pack_panels(half) for half in weight.chunk(2, dim=0))
    return torch.stack([gate, up], dim=1).flatten(0, 1)


def pack_qkv_panels(
    weight: Tensor, num_rotated_heads: int, num_heads: int, rotary_dim: int
) -> Tensor:
    """[heads·D, E] → as `pack_panels`; on CUDA with dims beside those they are rotated with."""
    if ops.backend(weight.device) == "cpu":
        return pack_panels(weight)
    dims = torch.arange(len(weight)).unflatten(0, (num_heads, -1))  # [heads, D]
    pairs = dims[:num_rotated_heads, :rotary_dim].unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
    dims[:num_rotated_heads, :rotary_dim] = pairs
    return pack_panels(weight[dims.flatten()])


def to_k_pages(keys: Tensor) -> Tensor:
    """[N, P, K, D] → [N, K, D, P], or for bfloat16 [N, K, D/2, P, 2]; on CUDA as `to_v_pages`"""
    if ops.backend(keys.device) == "cuda":
        return to_v_pages(keys)
    by_head = keys.transpose(1, 2)  # [N, K, P, D]
    if keys.dtype == torch.bfloat16:
        return by_head.unflatten(3, (-1, 2)).transpose(2, 3).contiguous()
    return by_head.transpose(2, 3).contiguous()


def from_k_pages(k_pages: Tensor) -> Tensor:
    """The inverse of `to_k_pages`."""
    if ops.backend(k_pages.device) == "cuda":
        return from_v_pages(k_pages)
    if k_pages.dtype == torch.bfloat16:
        return k_pages.transpose(2, 3).flatten(3).transpose(1, 2).contiguous()
    return k_pages.permute(0, 3, 1, 2).contiguous()


def to_v_pages(values: Tensor) -> Tensor:
    """[N, P, K, D] → [N, K, P, D]"""
    return values.transpose(1, 2).contiguous()


def from_v_pages(v_pages: Tensor) -> Tensor:
    """The inverse of `to_v_pages`."""
    return v_pages.transpose(1, 2).contiguous()


def to_scale_pages(scales: Tensor) -> Tensor:
    """[N, P, K] → [N, K, P]"""
    return scales.transpose(1, 2).contiguous()


def from_scale_pages(scales: Tensor) -> Tensor:
    """The inverse of `to_scale_pages`."""
    return scales.transpose(1, 2).contiguous()


# Steps -------------------------------------------------------------------------------------------


def chunks(num_tokens: int, chunk_len: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each chunk of a prompt."""
    for start in range(0, num_tokens, chunk_len):
        yield start, min(start + chunk_len, num_tokens)
