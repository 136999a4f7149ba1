"""The ops of the network: one typed function for one call into the extension.

Nothing here computes or allocates, except `pack_linear` and `pack_gate_up`, which make the buffers
that live as long as the model. Every output is passed in. The extension checks dtype, shape,
contiguity and index ranges of every argument before it writes anything, and raises `Error` (a
`ValueError`) naming op, argument and dimension: `rms_norm: weight dim 0 (E) is 32, expected 64`.

Calls that are made again and again on the same tensors can be recorded in a `Program`:

    program = ops.Program()
    with program:
        ops.rms_norm(h, weight, eps, x)  # checked, and not run
        ops.linear(x, projection, out)
    program.run()  # both, in one call; as often as wanted

It keeps the tensors alive, which must not be resized. What index tensors hold (token ids, slots,
positions) counts when it runs, and is checked then. It belongs to one thread at a time, and
`program.start()` lends it to another one until the `Run` that it returns has been waited for. On
CUDA both queue its calls behind what their stream has, from the second run on as one CUDA graph,
and `program.wait()` waits for the last run.

Shapes: T tokens packed in this step, B sequences, H query heads, K kv heads, D head dim (a multiple
of 16), E hidden, F MLP width, V vocabulary, C labels, R rotary dims (even), S factor sets, N pages,
P = 16 tokens per page, M pages per block table. A is the model's dtype, float32 or bfloat16. Row
tensors (`h`, `x`, logits) may have any row stride; everything else is contiguous. A weight of an
integer format meets activations that are quantized: int8 rows as `quantize` makes them.

All sums are accumulated in float32 in an order that depends on the model's shape alone, and are
rounded once; sums of integers are exact. So the bits of a row depend neither on the other rows of
the call, nor on how a prompt was cut into calls, on page ids, on the number of threads or on the
ISA. (Of bfloat16 weights and keys, the avx512_bf16 kernels take numbers below 1e-38 for 0.)

Sources: Phi3 in transformers (`modeling_phi3.py`) unless a docstring names another; what is off
unless asked for is there for Phi-3-small (Microsoft's `modeling_phi3_small.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from phi3svc import _core
from phi3svc._core import (
    Error,
    Program,
    Run,
    available_isas,
    build_info,
    isa,
    num_threads,
    pin_threads,
    set_isa,
    set_num_threads,
    set_pin_threads,
)

__all__ = [
    "PACKED_LAYOUT_VERSION",
    "PAGE_SIZE",
    "WEIGHT_FORMATS",
    "Biases",
    "BlockSparse",
    "Error",
    "PackedLinear",
    "Penalties",
    "Program",
    "Run",
    "attention",
    "attention_workspace_bytes",
    "available_isas",
    "backend",
    "build_info",
    "classify_head",
    "copy",
    "embedding",
    "end_on",
    "isa",
    "kv_cache_shapes",
    "kv_scales_shape",
    "layer_norm",
    "linear",
    "lm_head",
    "logprobs",
    "mlp",
    "num_threads",
    "pack_gate_up",
    "pack_linear",
    "pack_qkv",
    "packed_shape",
    "pin_threads",
    "qkv_rope",
    "quantize",
    "quantized_row_bytes",
    "rms_norm",
    "sample",
    "sample_workspace_bytes",
    "set_isa",
    "set_kernel_policy",
    "set_num_threads",
    "set_pin_threads",
    "unpack_gate_up",
    "unpack_linear",
]

PAGE_SIZE: Final = 16
"""P: tokens per KV page."""

WEIGHT_FORMATS: Final = (
    "float32",
    "bfloat16",
    "int8",
    "int4-g32",
    "int4-g32-min",
    "int4-g128",
    "int4-g128-min",
    "fp8",
)
"""How a packed weight may be stored: fp8 on CUDA only, integers on a CPU only."""

PACKED_LAYOUT_VERSION: Final = 1
"""Grows when the same weight is packed into other bytes."""

_PANEL_ROWS: Final = 16
_FLOAT_FORMATS: Final = ("float32", "bfloat16", "fp8")


@dataclass(frozen=True)
class PackedLinear:
    """A weight [out_features, in_features] rearranged into panels of 16 output rows.

    data: float32 [ceil(out/16), in, 16]; bfloat16 [ceil(out/16), ceil(in/2), 16, 2], pairs along
    the input so that one 32-bit lane holds both; for the integer formats uint8 [ceil(out/16), bytes
    of a panel]. On CUDA float32 or bfloat16 [16·ceil(out/16), 16·ceil(in/16)], or for fp8 uint8
    [bytes]. Padding is zero. csrc/core/weight_format.h says what each byte means; all ISAs read the
    same.
    """

    data: Tensor
    out_features: int
    in_features: int
    format: str

    @property
    def is_integer(self) -> bool:
        """Whether it meets quantized rows, see `quantize`."""
        return self.format not in _FLOAT_FORMATS

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def _argument(self) -> Tensor | tuple[Tensor, str, int]:
        if self.data.is_floating_point():
            return self.data
        return self.data, self.format, self.in_features


def backend(device: torch.device | str) -> str:
    """Which backend runs ops on the tensors of a device, "cpu" or "cuda"; layouts are its own."""
    return _core.backend(torch.device(device).type)


def set_kernel_policy(name: str) -> None:
    """Choose how GEMMs, and attention of prompts, on CUDA are computed, in the whole process.

    "deterministic", as at first: a row has the same bits in every batch. "free": by the fastest
    kernel, whose matrix instruction may round another way than that of another batch size. It is
    there to measure what determinism costs. Programs that have run once keep what they had.
    """
    _core.set_kernel_policy(name)


def packed_shape(
    out_features: int,
    in_features: int,
    format: str,
    is_gate_up: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a packed weight's data."""
    if backend(device) == "cuda":
        rows, columns = _round_up(out_features, _PANEL_ROWS), _round_up(in_features, 16)
        if format == "fp8":
            return (rows * (columns + 4),), torch.uint8
        return (rows, columns), getattr(torch, format)
    num_matrices = 2 if is_gate_up else 1
    num_panels = num_matrices * _num_panels(out_features // num_matrices)
    if format == "float32":
        return (num_panels, in_features, _PANEL_ROWS), torch.float32
    if format == "bfloat16":
        return (num_panels, (in_features + 1) // 2, _PANEL_ROWS, 2), torch.bfloat16
    return (num_panels, _core.packed_panel_bytes(format, in_features)), torch.uint8


def pack_linear(
    weight: Tensor,
    format: str | None = None,
    out: Tensor | None = None,
    row_errors: Tensor | None = None,
) -> PackedLinear:
    """Pack `weight` A [n, k] for `linear`, `qkv_rope`, `mlp` (down), the heads and `embedding`.

    format: one of WEIGHT_FORMATS, of the float ones only A; A if None. An integer format stores
    int8: scale · v per row, scale = max|w| / 127; or int4: scale · (q - z) · S with q in 0..15, and
    S and z per group of 32 or 128 columns (Lin et al. 2024, arXiv 2405.04532), z 8 unless the
    format ends in "-min". out: memory to pack into, of `packed_shape`. row_errors: float32 [n], for
    integer formats: the root mean square of what the stored weights of a row differ by, over its
    mean |weight|.
    """
    return _pack(_core.pack_linear, weight, format, out, row_errors, is_gate_up=False)


def pack_gate_up(
    weight: Tensor,
    format: str | None = None,
    out: Tensor | None = None,
    row_errors: Tensor | None = None,
) -> PackedLinear:
    """Pack the fused `weight` A [2F, E], rows [gate | up], for `mlp` alone; else as `pack_linear`.

    Panels alternate between 16 gate rows and their 16 up rows, each half padded by itself, so that
    SwiGLU happens in registers: 2·ceil(F/16) panels. On CUDA single rows alternate.
    """
    return _pack(_core.pack_gate_up, weight, format, out, row_errors, is_gate_up=True)


def pack_qkv(
    weight: Tensor,
    num_heads: int,
    num_kv_heads: int,
    rotary_dim: int,
    format: str | None = None,
    out: Tensor | None = None,
    row_errors: Tensor | None = None,
) -> PackedLinear:
    """Pack the fused `weight` A [(H + 2K)·D, E], rows q|k|v, for `qkv_rope` alone.

    Else as `pack_linear`. On CUDA the dims of q and k heads that a rotation mixes become
    neighbours.
    """

    pack = partial(
        _core.pack_qkv,
        num_rotated_heads=num_heads + num_kv_heads,
        head_dim=len(weight) // (num_heads + 2 * num_kv_heads),
        rotary_dim=rotary_dim,
    )
    return _pack(pack, weight, format, out, row_errors, is_gate_up=False)


def unpack_linear(packed: PackedLinear) -> Tensor:
    """The weights that `packed` stands for: float32 [n, k]."""
    out = torch.empty(packed.out_features, packed.in_features, device=packed.device)
    _core.unpack_linear(packed._argument, out)
    return out


def unpack_gate_up(packed: PackedLinear) -> Tensor:
    """The weights that `packed` stands for, rows [gate | up]: float32 [2F, E]."""
    out = torch.empty(packed.out_features, packed.in_features, device=packed.device)
    _core.unpack_gate_up(packed._argument, out)
    return out


def quantized_row_bytes(in_features: int) -> int:
    """Bytes of a quantized row of so many numbers: its scale and sum, and the padded numbers."""
    return _core.quantized_row_bytes(in_features)


def quantize(x: Tensor, out: Tensor) -> None:
    """Rows of activations as what meets a weight of an integer format.

    Each row gets a scale, max|x| / 127, and the numbers round(x / scale), ties to even. A row that
    is not finite has scale NaN, so that all that is made of it is NaN. x: A [T, k]; out: int8 [T,
    quantized_row_bytes(k)].
    """
    _core.quantize(x, out)


def kv_cache_shapes(
    num_pages: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one layer's K pages and V pages.

    dtype is the model's, or int8 on a CPU, or float8_e4m3fn on CUDA. On a CPU a K page is a packed
    panel of its 16 keys, as in `PackedLinear`: float32 and int8 [N, K, D, P], bfloat16
    [N, K, D/2, P, 2]. A V page is plain, and on CUDA a K page too: [N, K, P, D].
    """
    values = (num_pages, num_kv_heads, PAGE_SIZE, head_dim)
    if backend(device) == "cuda":
        return values, values
    if dtype == torch.bfloat16:
        return (num_pages, num_kv_heads, head_dim // 2, PAGE_SIZE, 2), values
    return (num_pages, num_kv_heads, head_dim, PAGE_SIZE), values


def kv_scales_shape(num_pages: int, num_kv_heads: int) -> tuple[int, ...]:
    """Shape of the float32 scales that one layer's int8 K pages, or V pages, have beside them."""
    return (num_pages, num_kv_heads, PAGE_SIZE)


def embedding(
    token_ids: Tensor, table: Tensor | PackedLinear, out: Tensor, scale: float = 1.0
) -> None:
    """out[t] = scale · table[token_ids[t]] in float32.

    token_ids: int32 [T], each in 0..V-1; table: A [V, E], or the packed lm_head where the two are
    tied (then memory holds one copy); out: float32 [T, E], the residual stream; scale: finite and
    positive, the embedding multiplier of muP (Yang et al. 2022).
    """
    if isinstance(table, PackedLinear):
        _core.embedding(token_ids, table._argument, out, vocab_size=table.out_features, scale=scale)
    else:
        _core.embedding(token_ids, table, out, vocab_size=table.shape[0], scale=scale)


def copy(source: Tensor, out: Tensor) -> None:
    """out = source, bit for bit: of one shape and dtype, and contiguous.

    With one of them on a CUDA device the copy is queued there; memory of the CPU then has to be
    page-locked, and left alone until that is over.
    """
    _core.copy(source, out)


def end_on(token_ids: Tensor, end_ids: Tensor) -> None:
    """End the run of the program that is being recorded, here, if a token says so.

    That is one below 0 (what `sample` gives a broken row), or one among the end_ids. `run` and
    `wait` then return False. token_ids: int32 [n]; end_ids: int32 [s], -1 where there is none.
    """
    _core.end_on(token_ids, end_ids)


def rms_norm(h: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """out = h / sqrt(mean(h²) + eps) · weight, per row (Zhang and Sennrich 2019).

    h: float32 [T, E]; weight: A [E]; out: A [T, E], or quantized rows (int8).
    """
    _core.rms_norm(h, weight, out, eps=eps)


def layer_norm(h: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """out = (h - mean) / sqrt(var + eps) · weight + bias, per row (Ba et al. 2016).

    var is the biased variance, mean((h - mean)²). h: float32 [T, E]; weight, bias: A [E]; out:
    A [T, E], or quantized rows (int8).
    """
    _core.layer_norm(h, weight, bias, out, eps=eps)


def qkv_rope(
    x: Tensor,
    weight: PackedLinear,
    positions: Tensor,
    rope_sets: Tensor,
    rope_table: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    q_out: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Project q, k and v, rotate q and k, and write k and v into their pages.

    q|k|v = x Wᵀ + bias. RoPE (Su et al. 2021) with the rotate-half pairing of transformers, on the
    first R dims of every head: (a, b) = (y[i], y[i + R/2]) → (a·cos - b·sin, b·cos + a·sin). Dims
    from R on pass through.

    x: A [T, E], quantized if the weight is; weight: rows q|k|v, [(H + 2K)·D, E]; positions:
    int32 [T], each below max_pos; rope_sets: int32 [T], which of the S factor sets a token's
    sequence uses (0 short, 1 long); rope_table: float32 [S, max_pos, R/2, 2] of (cos, sin),
    LongRoPE's attention factor folded in; slots: int32 [T], page·P + offset, no two equal; k_pages,
    v_pages: see `kv_cache_shapes`; q_out: A [T, H, D]; bias: A [(H + 2K)·D].

    With k_scales, v_scales (`kv_scales_shape`) pages are int8. Each head of k and v is quantized by
    itself, from float32: scale = max|x| / 127, stored = round(x / scale), ties to even. Zeros have
    scale 0; a head with a NaN or infinity has scale NaN, so that whoever reads it gets NaN.
    """
    _core.qkv_rope(
        x,
        weight._argument,
        positions,
        rope_sets,
        rope_table,
        slots,
        k_pages,
        v_pages,
        q_out,
        k_scales,
        v_scales,
        bias,
    )


@dataclass(frozen=True)
class BlockSparse:
    """Which blocks of keys a query sees (Phi-3-small technical report, §2; Qiu et al. 2020).

    With block b of a key or query at position p being p // block_size, query head h sees from block
    qb the key blocks kb <= qb with qb - kb < num_local_blocks, and those where
    (kb + h · head_step + 1) % vertical_stride == 0. head_step 0 gives all heads one pattern;
    Phi-3-small's is max(1, vertical_stride // H), which spreads the heads over the blocks.

    block_size: 16, 32, 64, 128 or 256; num_local_blocks, vertical_stride: 1 or more; head_step: 0
    or more.
    """

    block_size: int
    num_local_blocks: int
    vertical_stride: int
    head_step: int


def attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    window: int,
    scale: float,
    out: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    block_sparse: BlockSparse | None = None,
    workspace: Tensor | None = None,
) -> None:
    """softmax(scale · q Kᵀ) V over the visible keys of each query's own sequence.

    Query i of sequence b sits at position p = context_lens[b] - q_len[b] + i and sees key j iff
    j <= p and (window == 0 or j > p - window), as transformers has it since 4.48. Query head h
    reads kv head h // (H / K). Keys are reduced in spans of 256, aligned to absolute positions and
    merged in order; keys that are not visible are never read into a sum.

    With block_sparse (and window 0) a head sees of those keys only the ones in its blocks. No score
    of the others is computed, and where that leaves out no key, the bits are the dense ones.

    q: A [T, H, D]; k_pages, v_pages: see `kv_cache_shapes`; block_tables: int32 [B, M], page ids by
    position // P (entries of pages that no query sees may be anything); query_starts: int32 [B+1],
    rising from 0 to T; context_lens: int32 [B], keys of each sequence, these queries included;
    out: A [T, H·D]; k_scales, v_scales: with int8 pages, as `qkv_rope` wrote them; workspace: on
    CUDA, uint8 [bytes], zeroed once, see `attention_workspace_bytes`.
    """
    _core.attention(
        q,
        k_pages,
        v_pages,
        block_tables,
        query_starts,
        context_lens,
        out,
        k_scales,
        v_scales,
        window=window,
        scale=scale,
        block_sparse=None if block_sparse is None else _fields_of(block_sparse),
        workspace=workspace,
    )


def attention_workspace_bytes(
    num_tokens: int, num_heads: int, head_dim: int, table_len: int
) -> int:
    """Bytes that `attention` can make use of on CUDA for T queries; that of one is the least."""
    return _core.attention_workspace_bytes(num_tokens, num_heads, head_dim, table_len)


def linear(
    x: Tensor,
    weight: PackedLinear,
    out: Tensor,
    bias: Tensor | None = None,
    accumulate: bool = False,
) -> None:
    """out = x Wᵀ + bias, or out += x Wᵀ + bias.

    x: A [T, k], quantized if the weight is; weight: [n, k]; bias: A [n]; out: A or float32 [T, n].
    `accumulate` is the residual add and needs a float32 out.
    """
    _core.linear(x, weight._argument, out, bias, accumulate=accumulate)


def mlp(
    x: Tensor,
    gate_up: PackedLinear,
    down: PackedLinear,
    act: Tensor,
    h: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    gegelu_limit: float | None = None,
    quantized_act: Tensor | None = None,
) -> None:
    """h += (silu(gate) · up) Wdᵀ + down_bias with gate|up = x Wguᵀ + gate_up_bias.

    That is SwiGLU (Shazeer 2020). With a gegelu_limit silu(gate) · up gives way to
    a · sigmoid(1.702 a) · (b + 1), where a = min(gate, limit) and b = up between -limit and limit;
    values that are infinite are not limited.

    x: A [T, E], quantized if gate_up is; gate_up: from `pack_gate_up`, [2F, E]; down: [E, F]; act:
    A [T, F], a workspace that holds the activation afterwards; h: float32 [T, E], the residual
    stream; gate_up_bias: A [2F], gate | up; down_bias: A [E]; gegelu_limit: above 0, infinity for
    none; quantized_act: quantized rows of F, a workspace for a down of an integer format.
    """
    _core.mlp(
        x,
        gate_up._argument,
        down._argument,
        act,
        h,
        gate_up_bias,
        down_bias,
        gegelu_limit=gegelu_limit,
        quantized_act=quantized_act,
    )


def lm_head(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: PackedLinear,
    normed: Tensor,
    logits: Tensor,
    norm_bias: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
) -> None:
    """logits[i] = scale · norm(h[rows[i]]) Wᵀ + bias, for the rows that need a token only.

    The norm is `rms_norm`, or with a norm_bias `layer_norm`. A bias of -inf forbids a token: its
    logit is -inf.

    h: float32 [T, E]; rows: int32 [n], each in 0..T-1; norm_weight, norm_bias: A [E]; weight:
    [V, E]; normed: A [n, E], a workspace, quantized if the weight is; logits: float32 [n, V]; bias:
    A [V]; scale: finite and positive.
    """
    _core.lm_head(
        h,
        rows,
        norm_weight,
        weight._argument,
        normed,
        logits,
        norm_bias,
        bias,
        eps=eps,
        scale=scale,
    )


def classify_head(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: PackedLinear,
    bias: Tensor | None,
    normed: Tensor,
    scores: Tensor,
    norm_bias: Tensor | None = None,
) -> None:
    """scores[i] = norm(h[rows[i]]) Wᵀ + bias: `score` of Phi3For{Sequence,Token}Classification.

    The norm is as in `lm_head`. rows: int32 [n], the last token of each sequence, or every token;
    weight: [C, E]; bias: A [C]; normed: A [n, E], a workspace; scores: float32 [n, C], raw, before
    any softmax.
    """
    _core.classify_head(
        h, rows, norm_weight, weight._argument, bias, normed, scores, norm_bias, eps=eps
    )


@dataclass(frozen=True)
class Penalties:
    """What the rows of `sample` have seen, and what that costs a token.

    repetition: float32 [n] above 0, 1 is off; divides the logit of a seen token when positive, else
    multiplies it. presence, frequency: float32 [n], 0 is off; subtracted once, and once per
    occurrence, from the logit of a token that the answer has. Row i owns the entries
    starts[i] .. starts[i + 1], starts int32 [n + 1]; an entry, unique in its row, is a token_ids
    int32 [c] and how often the answer has it, counts int32 [c], 0 when only the prompt has it.
    """

    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    starts: Tensor
    token_ids: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Biases:
    """What `sample` adds to single logits; -inf forbids a token.

    Row i owns the entries starts[i] .. starts[i + 1], starts int32 [n + 1]: token_ids int32 [b] and
    values float32 [b]. What is said of a token more than once adds up.
    """

    starts: Tensor
    token_ids: Tensor
    values: Tensor


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    sequence_indices: Tensor,
    positions: Tensor,
    out_ids: Tensor,
    out_logprobs: Tensor,
    *,
    min_p: Tensor | None = None,
    typical_p: Tensor | None = None,
    penalties: Penalties | None = None,
    biases: Biases | None = None,
    workspace: Tensor | None = None,
) -> None:
    """Draw one token per row; the draw is a function of (seed, sequence index, position) alone.

    Repetition penalty, presence and frequency penalty, biases, temperature, top-k (ties of the k-th
    kept), top-p, min-p and typical-p apply in this order, with the meaning of transformers'
    processors where it has one. Greedy rows have all up to the biases. The uniform number is
    u = (word0 >> 8) · 2⁻²⁴ of Philox4x32-10 (Salmon et al. 2011) with key (seed low, seed high) and
    counter (position, sequence index, 0, 0). Kept tokens are walked by rising id until their
    cumulative weight exceeds u · total.

    logits: float32 [n, V]; temperature: float32 [n], 0 is greedy and the lowest id wins a tie;
    top_k: int32 [n], 0 is off; top_p: float32 [n] in (0, 1], 1 is off; seeds: int64 [n], the bits
    of a uint64; sequence_indices, positions: int32 [n]; min_p: float32 [n] in [0, 1], 0 is off;
    typical_p: float32 [n] in (0, 1], 1 is off; out_ids: int32 [n]; out_logprobs: float32 [n], log
    softmax of the raw logits at the drawn token. A row without a finite logit, before or after
    biases, or with a NaN or +inf in it, gets id -1 and logprob NaN; -inf is never drawn. workspace:
    on CUDA, with penalties or biases, uint8 [bytes] of `sample_workspace_bytes`.
    """
    _core.sample(
        logits,
        temperature,
        top_k,
        top_p,
        seeds,
        sequence_indices,
        positions,
        out_ids,
        out_logprobs,
        min_p=min_p,
        typical_p=typical_p,
        **{} if penalties is None else _penalty_arguments(penalties),
        **{} if biases is None else _bias_arguments(biases),
        workspace=workspace,
    )


def sample_workspace_bytes(num_rows: int, vocab_size: int) -> int:
    """Bytes that `sample` needs on CUDA for n rows with penalties or biases."""
    return _core.sample_workspace_bytes(num_rows, vocab_size)


def logprobs(
    logits: Tensor,
    token_ids: Tensor,
    out_logprobs: Tensor,
    out_top_ids: Tensor,
    out_top_logprobs: Tensor,
) -> None:
    """Log softmax of the logits at a given token of each row, and at its k likeliest tokens.

    The given token's is to the bit what `sample` reports when it draws that token. The likeliest
    come by falling logit, of equal ones the lower id first.

    logits: float32 [n, V]; token_ids: int32 [n], each in 0..V-1; out_logprobs: float32 [n];
    out_top_ids: int32 [n, k], 0 <= k <= V; out_top_logprobs: float32 [n, k]. A logit of -inf has
    logprob -inf. A row without a finite logit, or with a NaN or +inf in it, gets ids -1 and
    logprobs NaN.
    """
    _core.logprobs(logits, token_ids, out_logprobs, out_top_ids, out_top_logprobs)


def _fields_of(sparse: BlockSparse) -> tuple[int, int, int, int]:
    return sparse.block_size, sparse.num_local_blocks, sparse.vertical_stride, sparse.head_step


def _penalty_arguments(penalties: Penalties) -> dict[str, Tensor]:
    return {
        "repetition": penalties.repetition,
        "presence": penalties.presence,
        "frequency": penalties.frequency,
        "seen_starts": penalties.starts,
        "seen_ids": penalties.token_ids,
        "seen_counts": penalties.counts,
    }


def _bias_arguments(biases: Biases) -> dict[str, Tensor]:
    return {
        "bias_starts": biases.starts,
        "bias_ids": biases.token_ids,
        "bias_values": biases.values,
    }


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _num_panels(num_rows: int) -> int:
    return -(-num_rows // _PANEL_ROWS)


def _pack(
    pack: Callable[..., None],
    weight: Tensor,
    format: str | None,
    out: Tensor | None,
    row_errors: Tensor | None,
    is_gate_up: bool,
) -> PackedLinear:
    format = format or str(weight.dtype).removeprefix("torch.")
    out_features, in_features = weight.shape
    if out is None:
        shape, dtype = packed_shape(out_features, in_features, format, is_gate_up, weight.device)
        out = torch.empty(shape, dtype=dtype, device=weight.device)
    packed = PackedLinear(out, out_features, in_features, format)
    pack(weight, packed._argument, row_errors)
    return packed
