"""Ops with weights of integer formats: their sums are exact, so most results are known to the bit.

The reference multiplies the integers that `weight_formats` reads from the packed bytes with those
of the quantized rows. `test_weight_formats` and `test_quantize` hold both to what was quantized.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from op_tensors import NUM_ROWS, Guarded, i32, misaligned, poisoned, randn, rounding
from phi3svc import ops
from weight_formats import (
    INTEGER_FORMATS,
    gate_and_up,
    input_of,
    product,
    quantized_rows,
    rows_for,
    weights_of,
)

pytestmark = [pytest.mark.usefixtures("gemm_isa"), pytest.mark.cpu_only]

EPS = 1e-5
BF16 = torch.bfloat16


@pytest.fixture(params=INTEGER_FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return request.param


def quantized(num_rows: int, width: int) -> Tensor:
    """Quantized rows of random numbers."""
    return input_of(randn(num_rows, width), "int8")


def check_linear(x: Tensor, weight: ops.PackedLinear) -> None:
    buffer = Guarded(len(x), weight.out_features, dtype=torch.float32)
    ops.linear(x, weight, buffer.out)
    assert_bitwise_equal(buffer.checked(), product(x, weight))


# linear ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [*NUM_ROWS, 24, 97, 200])
def test_linear_of_any_number_of_rows(num_rows: int, format: str) -> None:
    check_linear(quantized(num_rows, 300), ops.pack_linear(randn(72, 300), format))


@pytest.mark.parametrize("out_features", [1, 15, 16, 17, 33, 48, 63, 64, 65, 129])
@pytest.mark.parametrize("num_rows", [1, 5, 18])
def test_linear_of_any_number_of_features(out_features: int, num_rows: int, format: str) -> None:
    check_linear(quantized(num_rows, 64), ops.pack_linear(randn(out_features, 64), format))


@pytest.mark.parametrize(
    "width", [1, 3, 31, 32, 33, 127, 128, 129, 257, 513, 1023, 1024, 1025, 2200]
)
@pytest.mark.parametrize("num_rows", [1, 11, 19])
def test_linear_of_any_width(width: int, num_rows: int, format: str) -> None:
    check_linear(quantized(num_rows, width), ops.pack_linear(randn(35, width), format))


@pytest.mark.parametrize("num_rows", [1, 20])
def test_linear_holds_the_largest_sums(num_rows: int, format: str) -> None:
    """Everything at its limit, at the largest k: 127 · 127 · 65536, and the offset of 128."""
    width = 65536
    x = torch.ones(num_rows, width)
    x[1::2] = -1
    weight = torch.ones(3, width)
    weight[1] = -1
    packed = ops.pack_linear(weight, format)
    check_linear(input_of(x, format), packed)
    out = torch.empty(num_rows, 3)
    ops.linear(input_of(x, format), packed, out)
    assert_close(out, x.double() @ weight.double().T, rtol=2e-3)  # as near as the scales


@pytest.mark.parametrize("num_rows", [1, 21])
def test_linear_is_near_the_product_of_floats(num_rows: int, format: str) -> None:
    x, weight = randn(num_rows, 1500), randn(40, 1500)
    packed = ops.pack_linear(weight, format)
    out = torch.empty(num_rows, 40)
    ops.linear(input_of(x, format), packed, out)
    exact = x.double() @ weights_of(packed).double().T
    # Rounding moves a number by up to half a step, independently: six deviations.
    step = x.abs().amax(-1, keepdim=True).double() / 127
    deviation = step / math.sqrt(12) * weights_of(packed).double().norm(dim=-1)
    assert_close(out, exact, 6 * deviation)


def test_linear_adds_bias_and_residual_and_rounds_once(format: str, dtype: torch.dtype) -> None:
    x, weight = quantized(9, 150), ops.pack_linear(randn(50, 150), format)
    bias, residual = randn(50, dtype=dtype), randn(9, 50)
    exact = product(x, weight) + bias.float()
    out, h = Guarded(9, 50, dtype=dtype), Guarded(9, 50, dtype=torch.float32)
    ops.linear(x, weight, out.out, bias)
    assert_bitwise_equal(out.checked(), exact.to(dtype))
    h.out.copy_(residual)
    ops.linear(x, weight, h.out, bias, accumulate=True)
    assert_bitwise_equal(h.checked(), residual + exact)


def test_what_is_not_finite_keeps_to_its_rows_and_columns(format: str) -> None:
    x, weight = randn(20, 150), randn(40, 150)
    expected = torch.empty(20, 40)
    ops.linear(input_of(x, format), ops.pack_linear(weight, format), expected)
    x[3, 5], x[17], weight[2, 149], weight[39] = math.nan, math.inf, math.inf, math.nan
    x[4], weight[7] = 0, 0
    for rows in (slice(0, 20), slice(0, 5)):  # expanded, and from registers
        out = torch.empty(len(x[rows]), 40)
        ops.linear(input_of(x[rows], format), ops.pack_linear(weight, format), out)
        is_nan = torch.zeros(20, 40, dtype=torch.bool)
        is_nan[[3, 17]] = is_nan[:, [2, 39]] = True
        is_zero = torch.zeros(20, 40, dtype=torch.bool)
        is_zero[4] = is_zero[:, 7] = True
        assert torch.equal(out.isnan(), is_nan[rows])
        assert (out[(is_zero & ~is_nan)[rows]] == 0).all()
        kept = ~(is_nan | is_zero)[rows]
        assert_bitwise_equal(out[kept], expected[rows][kept])


def test_a_row_has_the_bits_it_has_alone_in_batches_of_up_to_200(format: str) -> None:
    x, weight = quantized(200, 1100), ops.pack_linear(randn(16 * 5 + 3, 1100), format)
    whole = product(x, weight)
    for num_rows in (1, 2, 3, 8, 9, 15, 16, 17, 18, 25, 33, 95, 96, 97, 113, 191, 192, 193, 200):
        for num_threads in (1, 2, 3):
            ops.set_num_threads(num_threads)
            for start in {0, 200 - num_rows}:
                out = torch.empty(num_rows, 83)
                ops.linear(x[start : start + num_rows], weight, out)
                assert_bitwise_equal(out, whole[start : start + num_rows])


# mlp ---------------------------------------------------------------------------------------------

MIXED = [
    *((name, name) for name in INTEGER_FORMATS),
    ("int4-g32-min", "bfloat16"),
    ("bfloat16", "int4-g32-min"),
    ("int8", "int4-g128"),
]


@pytest.mark.parametrize(("gate_up_format", "down_format"), MIXED)
@pytest.mark.parametrize("num_tokens", [0, 1, 7, 33])
@pytest.mark.parametrize("mlp_width", [17, 100])
@pytest.mark.parametrize("is_small", [False, True])
def test_mlp_of_any_formats(
    gate_up_format: str, down_format: str, num_tokens: int, mlp_width: int, is_small: bool
) -> None:
    gate_up = ops.pack_gate_up(randn(2 * mlp_width, 70, dtype=BF16, std=0.2), gate_up_format)
    down = ops.pack_linear(randn(70, mlp_width, dtype=BF16), down_format)
    biases = [randn(2 * mlp_width, dtype=BF16), randn(70, dtype=BF16)] if is_small else [None, None]
    limit = 0.7 if is_small else None
    x = input_of(randn(num_tokens, 70, dtype=BF16), gate_up_format)
    act = Guarded(num_tokens, mlp_width, dtype=BF16)
    h, residual = Guarded(num_tokens, 70, dtype=torch.float32), randn(num_tokens, 70)
    h.out.copy_(residual)
    rows = rows_for(num_tokens, mlp_width)
    ops.mlp(
        x,
        gate_up,
        down,
        act.out,
        h.out,
        *biases,
        gegelu_limit=limit,
        quantized_act=rows.out if down.is_integer else None,
    )

    if gate_up.is_integer:
        both = [product(x, half) for half in gate_and_up(gate_up)]
        if biases[0] is not None:
            both = [y + b.float() for y, b in zip(both, biases[0].chunk(2), strict=True)]
        gate, up = (y.double() for y in both)
        if limit is None:
            exact = torch.nn.functional.silu(gate) * up
        else:
            exact = reference.gegelu(gate, up, limit)
        bound = 2.0**-24 * (16 * exact.abs() + gate.abs()) + rounding(exact, BF16)
        assert_close(act.checked(), exact, bound)
    if down.is_integer:
        assert_bitwise_equal(quantized_rows(rows.checked())[2], quantized_rows_of(act.out))
        added = product(rows.out, down)
    else:
        added = torch.empty(num_tokens, 70)
        ops.linear(act.checked(), down, added)
    if biases[1] is not None:
        added = added + biases[1].float()
    assert_bitwise_equal(h.checked(), residual + added)


def quantized_rows_of(x: Tensor) -> Tensor:
    return quantized_rows(input_of(x, "int8")).values


# Heads, qkv_rope, embedding ----------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [0, 1, 5, 18])
@pytest.mark.parametrize("has_biases", [False, True])
def test_heads_norm_into_quantized_rows_and_project(
    num_rows: int, has_biases: bool, format: str, dtype: torch.dtype
) -> None:
    h, rows = misaligned(randn(40, 150)), torch.randint(40, (num_rows,), dtype=torch.int32)
    norm_weight, weight = randn(150, dtype=dtype), ops.pack_linear(randn(65, 150), format)
    bias = randn(65, dtype=dtype) if has_biases else None
    norm_bias = randn(150, dtype=dtype) if has_biases else None
    expected_rows = torch.empty(num_rows, ops.quantized_row_bytes(150), dtype=torch.int8)
    if norm_bias is None:
        ops.rms_norm(h[rows.long()], norm_weight, EPS, expected_rows)
    else:
        ops.layer_norm(h[rows.long()], norm_weight, norm_bias, EPS, expected_rows)
    expected = product(expected_rows, weight)

    normed, logits = rows_for(num_rows, 150), Guarded(num_rows, 65, dtype=torch.float32)
    ops.lm_head(
        h, rows, norm_weight, EPS, weight, normed.out, logits.out, norm_bias, bias, scale=0.3
    )
    for found, wanted in zip(
        quantized_rows(normed.checked()), quantized_rows(expected_rows), strict=True
    ):
        assert_bitwise_equal(found, wanted)
    scaled = expected * 0.3
    assert_bitwise_equal(logits.checked(), scaled if bias is None else scaled + bias.float())

    scores = Guarded(num_rows, 65, dtype=torch.float32)
    ops.classify_head(h, rows, norm_weight, EPS, weight, bias, normed.out, scores.out, norm_bias)
    assert_bitwise_equal(scores.checked(), expected if bias is None else expected + bias.float())


@pytest.mark.parametrize("num_tokens", [0, 1, 6, 19])
@pytest.mark.parametrize("has_bias", [False, True])
def test_qkv_rope_rotates_the_product(
    num_tokens: int, has_bias: bool, format: str, dtype: torch.dtype
) -> None:
    num_heads, num_kv_heads, head_dim, width, num_pages = 4, 2, 32, 150, 3
    weight = ops.pack_linear(randn((num_heads + 2 * num_kv_heads) * head_dim, width), format)
    bias = randn(weight.out_features, dtype=dtype) if has_bias else None
    x = quantized(num_tokens, width)
    positions, rope_sets = (
        torch.randint(high, (num_tokens,), dtype=torch.int32) for high in (40, 2)
    )
    table = randn(2, 40, 12, 2)  # R = 24 of 32
    slots = torch.randperm(num_pages * ops.PAGE_SIZE, dtype=torch.int32)[:num_tokens]
    k_shape, v_shape = ops.kv_cache_shapes(num_pages, num_kv_heads, head_dim, dtype)
    k_pages, v_pages = poisoned(*k_shape, dtype=dtype), poisoned(*v_shape, dtype=dtype)
    q = Guarded(num_tokens, num_heads, head_dim, dtype=dtype)
    ops.qkv_rope(x, weight, positions, rope_sets, table, slots, k_pages, v_pages, q.out, bias=bias)

    y = product(x, weight)
    y = (y if bias is None else y + bias.float()).double().unflatten(-1, (-1, head_dim))
    cos, sin = table[rope_sets.long(), positions.long()].double().unbind(-1)
    exact = reference.rotate(y, cos, sin)
    exact[:, num_heads + num_kv_heads :] = y[:, num_heads + num_kv_heads :]
    # Two products and their sum, in float32.
    largest = table.abs().max() * y.abs().amax(-1, keepdim=True) if num_tokens else y[..., :1]
    bound = 2.0**-22 * largest + rounding(exact, dtype)
    written = slots.long()
    k = reference.from_k_pages(k_pages).flatten(0, 1)[written]
    v = reference.from_v_pages(v_pages).flatten(0, 1)[written]
    assert_close(torch.cat([q.checked(), k, v], dim=1), exact, bound)


@pytest.mark.parametrize("width", [1, 127, 300])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_embedding_reads_the_weights_of_a_tied_head(width: int, scale: float, format: str) -> None:
    table = ops.pack_linear(randn(37, width), format)
    out = Guarded(38, width, dtype=torch.float32)
    token_ids = torch.cat([i32(7), torch.arange(37, dtype=torch.int32)])
    ops.embedding(token_ids, table, out.out, scale)
    assert_bitwise_equal(out.checked(), weights_of(table)[token_ids.long()] * scale)
