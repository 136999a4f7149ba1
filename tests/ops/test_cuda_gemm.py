"""The GEMMs of CUDA: one order of summation in every kernel and tile, fp8, and bad indices."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal, assert_close
from devices import BACKEND
from op_tensors import dot_bound, i32, misaligned, poisoned, randn, rounding
from phi3svc import ops
from test_qkv_rope import MAX_POSITION, NUM_PAGES, rope_table

pytestmark = pytest.mark.skipif(BACKEND != "cuda", reason="only CUDA has these kernels")

# Around the tokens of every tile: 8 and 16 of the decode kernel, 64 and 128 of the others.
NUM_TOKENS = [1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129]
FORMATS = [
    pytest.param(torch.float32, "float32", id="f32"),
    pytest.param(torch.float32, "fp8", id="f32-fp8"),
    pytest.param(torch.bfloat16, "bfloat16", id="bf16"),
    pytest.param(torch.bfloat16, "fp8", id="bf16-fp8"),
]


def linear(x: Tensor, weight: ops.PackedLinear) -> Tensor:
    out = torch.empty(len(x), weight.out_features)
    ops.linear(x, weight, out)
    return out


def mlp(x: Tensor, gate_up: ops.PackedLinear, down: ops.PackedLinear) -> tuple[Tensor, Tensor]:
    """The activation, and what the MLP adds to zeros."""
    act = torch.empty(len(x), down.in_features, dtype=x.dtype)
    h = torch.zeros(len(x), down.out_features)
    ops.mlp(x, gate_up, down, act, h)
    return act, h


# k of one span, of three, which end in no whole chunk, and of four, which are no whole fp8 stages.
@pytest.mark.parametrize(("num_rows", "width"), [(40, 48), (290, 190), (272, 1240)])
@pytest.mark.parametrize(("dtype", "format"), FORMATS)
def test_a_row_has_the_same_bits_in_every_tile(
    num_rows: int, width: int, dtype: torch.dtype, format: str
) -> None:
    x = randn(max(NUM_TOKENS), width, dtype=dtype)
    weight = ops.pack_linear(randn(num_rows, width, dtype=dtype), format)
    whole = linear(x, weight)
    unpacked = ops.unpack_linear(weight)
    exact = reference.linear(x.double(), unpacked.double())
    assert_close(whole, exact, 2 * dot_bound(x, unpacked))
    for num_tokens in NUM_TOKENS:
        first = (len(x) - num_tokens) // 2
        rows = slice(first, first + num_tokens)
        assert_bitwise_equal(linear(x[rows], weight), whole[rows])


@pytest.mark.parametrize(("dtype", "format"), FORMATS)
def test_rows_that_cannot_be_copied_in_chunks_have_the_same_bits(
    dtype: torch.dtype, format: str
) -> None:
    x = randn(70, 320, dtype=dtype)
    weight = ops.pack_linear(randn(33, 320, dtype=dtype), format)
    for num_tokens in (3, 16, 70):
        aligned = linear(x[:num_tokens], weight)
        assert_bitwise_equal(linear(misaligned(x[:num_tokens]), weight), aligned)


@pytest.mark.parametrize("num_tokens", [1, 9, 17, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_four_spans_are_added_in_order(num_tokens: int, dtype: torch.dtype) -> None:
    """Big numbers cancel across spans, and what is between them is lost only in this order."""
    terms = torch.zeros(4, 256)
    terms[:, 100] = torch.tensor([2.0**24, 1, 1, -(2.0**24)])
    weight = ops.pack_linear(terms.flatten()[None].to(dtype))
    out = linear(torch.ones(num_tokens, 1024, dtype=dtype), weight)
    assert_bitwise_equal(out, torch.zeros(num_tokens, 1))


@pytest.mark.parametrize("num_tokens", [5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_mlp_of_fp8_weights(num_tokens: int, dtype: torch.dtype) -> None:
    x = randn(num_tokens, 96, dtype=dtype)
    gate_up = ops.pack_gate_up(randn(2 * 72, 96, dtype=dtype, std=0.1), "fp8")
    down = ops.pack_linear(randn(96, 72, dtype=dtype), "fp8")
    act, h = mlp(x, gate_up, down)
    unpacked_gate_up, unpacked_down = ops.unpack_gate_up(gate_up), ops.unpack_linear(down)
    exact = reference.activation(x.double(), unpacked_gate_up.double())
    gate, up = dot_bound(x, unpacked_gate_up).chunk(2, dim=-1)
    assert_close(act, exact, 8 * (gate.max() + up.max()) + rounding(exact, dtype), 1e-6)
    exact = reference.linear(act.double(), unpacked_down.double())
    assert_close(h, exact, 2 * dot_bound(act, unpacked_down))


@pytest.mark.parametrize("num_tokens", [2, 20])
def test_an_fp8_row_that_was_not_finite_gives_nan(num_tokens: int) -> None:
    weight = randn(20, 64, dtype=torch.bfloat16)
    weight[7, 3] = math.inf
    weight[12, 63] = math.nan
    out = linear(randn(num_tokens, 64, dtype=torch.bfloat16), ops.pack_linear(weight, "fp8"))
    assert out.isnan().any(dim=0).nonzero().flatten().tolist() == [7, 12]
    assert out[:, [7, 12]].isnan().all()


class Qkv:
    """A call of `qkv_rope` with six tokens, that tests may spoil."""

    num_heads, num_kv_heads, head_dim, rotary_dim, width = 2, 1, 32, 16, 64

    def __init__(self, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.kv_dtype = kv_dtype
        num_rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        self.x = randn(6, self.width, dtype=dtype)
        self.weight = randn(num_rows, self.width, dtype=dtype)
        self.positions = i32(0, 1, 2, 3, 4, 5)
        self.rope_sets = i32(0, 1, 0, 1, 0, 1)
        self.slots = i32(3, 19, 20, 40, 41, 79)

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, H, D], and the slots of k and v, [N·P, K, D]."""
        k_shape, v_shape = ops.kv_cache_shapes(
            NUM_PAGES, self.num_kv_heads, self.head_dim, self.kv_dtype, self.x.device
        )
        k_pages = torch.full(k_shape, -1.0).to(self.kv_dtype)
        v_pages = torch.full(v_shape, -1.0).to(self.kv_dtype)
        q = poisoned(len(self.x), self.num_heads, self.head_dim, dtype=self.dtype)
        ops.qkv_rope(
            self.x,
            ops.pack_qkv(self.weight, self.num_heads, self.num_kv_heads, self.rotary_dim),
            self.positions,
            self.rope_sets,
            rope_table(self.rotary_dim),
            self.slots,
            k_pages,
            v_pages,
            q,
        )
        k, v = (pages.float().transpose(1, 2).flatten(0, 1) for pages in (k_pages, v_pages))
        return q, k, v


def spoil_position(qkv: Qkv, token: int) -> None:
    qkv.positions[token] = MAX_POSITION


def spoil_position_below(qkv: Qkv, token: int) -> None:
    qkv.positions[token] = -1


def spoil_rope_set(qkv: Qkv, token: int) -> None:
    qkv.rope_sets[token] = 2


def spoil_slot(qkv: Qkv, token: int) -> None:
    qkv.slots[token] = NUM_PAGES * ops.PAGE_SIZE


def spoil_slot_below(qkv: Qkv, token: int) -> None:
    qkv.slots[token] = -1


@pytest.mark.parametrize(
    "spoil",
    [spoil_position, spoil_position_below, spoil_rope_set, spoil_slot, spoil_slot_below],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_token_with_a_bad_index_becomes_nan_and_writes_to_no_other_slot(
    spoil: Callable[[Qkv, int], None], dtype: torch.dtype
) -> None:
    qkv = Qkv(dtype, dtype)
    good = qkv.run()
    slot = int(qkv.slots[2])
    spoil(qkv, 2)
    q, k, v = qkv.run()
    assert q[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert_bitwise_equal(q[others], good[0][others])
    has_slot = 0 <= qkv.slots[2] < NUM_PAGES * ops.PAGE_SIZE
    for actual, expected in ((k, good[1]), (v, good[2])):
        expected[slot] = math.nan if has_slot else -1.0
        assert_close(actual, expected)


def test_fp8_pages_hold_the_float32_values_rounded_once() -> None:
    qkv = Qkv(torch.float32, torch.float32)
    qkv.weight *= 20
    q, k, v = qkv.run()
    assert k.abs().max() > 448
    qkv.kv_dtype = torch.float8_e4m3fn
    rounded_q, *rounded = qkv.run()
    assert_bitwise_equal(rounded_q, q)
    for actual, expected in zip(rounded, (k, v), strict=True):
        saturated = expected.clamp(-448, 448)
        assert_bitwise_equal(actual, saturated.to(torch.float8_e4m3fn).float())
