"""Wrong calls: an error that names op, argument and dimension, and nothing written.

Each op has one valid call at the binding, or one for each kind of pages; every argument of it is
then spoilt in every generic way (dtype, rank, each dimension, contiguity, not a tensor at all), and
every index in turn points outside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from devices import BACKEND
from op_tensors import i32, randn
from phi3svc import _core, ops

if BACKEND == "cuda":
    pytest.skip("arguments are checked before a backend is chosen", allow_module_level=True)

Call = dict[str, Any]

BF16 = torch.bfloat16
T, B, H, K, D, E, F, V, N, M = 5, 2, 4, 2, 32, 48, 64, 64, 6, 3


def pages() -> dict[str, Tensor]:
    k_shape, v_shape = ops.kv_cache_shapes(N, K, D, BF16)
    return {"k_pages": randn(*k_shape, dtype=BF16), "v_pages": randn(*v_shape, dtype=BF16)}


def int8_pages() -> dict[str, Tensor]:
    k_shape, v_shape = ops.kv_cache_shapes(N, K, D, torch.int8)
    return {
        "k_pages": torch.randint(-127, 128, k_shape, dtype=torch.int8),
        "v_pages": torch.randint(-127, 128, v_shape, dtype=torch.int8),
        "k_scales": torch.rand(ops.kv_scales_shape(N, K)),
        "v_scales": torch.rand(ops.kv_scales_shape(N, K)),
    }


def packed(num_rows: int, width: int) -> Tensor:
    return ops.pack_linear(randn(num_rows, width, dtype=BF16)).data


Quantized = tuple[Tensor, str, int]
"""A weight of an integer format, as the binding takes it."""


def quantized_weight(num_rows: int, width: int, format: str = "int4-g32-min") -> Quantized:
    return ops.pack_linear(randn(num_rows, width), format)._argument


def quantized_rows(num_rows: int, width: int) -> Tensor:
    rows = torch.empty(num_rows, ops.quantized_row_bytes(width), dtype=torch.int8)
    ops.quantize(randn(num_rows, width), rows)
    return rows


def qkv_rope_call() -> Call:
    return {
        "x": randn(T, E, dtype=BF16),
        "weight": packed((H + 2 * K) * D, E),
        "positions": i32(0, 9, 1, 7, 3),
        "rope_sets": i32(0, 1, 0, 1, 0),
        "rope_table": randn(2, 10, 8, 2),
        "slots": i32(0, 95, 17, 3, 50),
        **pages(),
        "q_out": randn(T, H, D, dtype=BF16),
        "bias": randn((H + 2 * K) * D, dtype=BF16),
    }


def attention_call() -> Call:
    return {
        "q": randn(T, H, D, dtype=BF16),
        **pages(),
        "block_tables": i32(0, 1, 2, 3, 4, 5).view(B, M),
        "query_starts": i32(0, 2, 5),
        "context_lens": i32(20, 48),
        "out": randn(T, H * D, dtype=BF16),
        "window": 0,
        "scale": 0.2,
    }


def head_call() -> Call:
    return {
        "h": randn(T, E),
        "rows": i32(0, 4, 2),
        "norm_weight": randn(E, dtype=BF16),
        "weight": packed(V, E),
        "normed": randn(3, E, dtype=BF16),
        "norm_bias": randn(E, dtype=BF16),
        "bias": randn(V, dtype=BF16),
        "eps": 1e-5,
    }


VALID: dict[str, Callable[[], Call]] = {
    "pack_linear": lambda: {
        "weight": randn(32, E, dtype=BF16),
        "out": randn(2, E // 2, 16, 2, dtype=BF16),
    },
    "pack_gate_up": lambda: {
        "weight": randn(2 * F, E, dtype=BF16),
        "out": randn(2 * F // 16, E // 2, 16, 2, dtype=BF16),
    },
    "embedding": lambda: {
        "token_ids": i32(0, 63, 5, 6, 7),
        "table": randn(V, E, dtype=BF16),
        "out": randn(T, E),
        "vocab_size": V,
    },
    "rms_norm": lambda: {
        "h": randn(T, E),
        "weight": randn(E, dtype=BF16),
        "out": randn(T, E, dtype=BF16),
        "eps": 1e-5,
    },
    "layer_norm": lambda: {
        "h": randn(T, E),
        "weight": randn(E, dtype=BF16),
        "bias": randn(E, dtype=BF16),
        "out": randn(T, E, dtype=BF16),
        "eps": 1e-5,
    },
    "qkv_rope": qkv_rope_call,
    "qkv_rope int8": lambda: {**qkv_rope_call(), **int8_pages()},
    "attention": attention_call,
    "attention int8": lambda: {**attention_call(), **int8_pages()},
    "linear": lambda: {
        "x": randn(T, E, dtype=BF16),
        "weight": packed(F, E),
        "out": randn(T, F, dtype=BF16),
        "bias": randn(F, dtype=BF16),
    },
    "mlp": lambda: {
        "x": randn(T, E, dtype=BF16),
        "gate_up": ops.pack_gate_up(randn(2 * F, E, dtype=BF16)).data,
        "down": packed(E, F),
        "act": randn(T, F, dtype=BF16),
        "h": randn(T, E),
        "gate_up_bias": randn(2 * F, dtype=BF16),
        "down_bias": randn(E, dtype=BF16),
    },
    "lm_head": lambda: {**head_call(), "logits": randn(3, V)},
    "classify_head": lambda: {
        **head_call(),
        "scores": randn(3, V),
    },
    "sample": lambda: {
        "logits": randn(3, V),
        "temperature": torch.tensor([0.0, 0.5, 1.0]),
        "top_k": i32(0, 5, 9),
        "top_p": torch.tensor([1.0, 0.5, 0.9]),
        "seeds": torch.tensor([1, -1, 5]),
        "sequence_indices": i32(0, 1, 2),
        "positions": i32(5, 6, 7),
        "out_ids": i32(9, 9, 9),
        "out_logprobs": randn(3),
        "min_p": torch.tensor([0.0, 0.1, 1.0]),
        "typical_p": torch.tensor([1.0, 0.5, 0.9]),
        "repetition": torch.tensor([1.0, 0.5, 2.0]),
        "presence": torch.tensor([0.0, 1.0, -1.0]),
        "frequency": torch.tensor([0.0, 1.0, -1.0]),
        "seen_starts": i32(0, 2, 2, 3),
        "seen_ids": i32(4, 0, V - 1),
        "seen_counts": i32(0, 1, 2),
        "bias_starts": i32(0, 0, 1, 2),
        "bias_ids": i32(0, V - 1),
        "bias_values": torch.tensor([1.0, -math.inf]),
    },
    "pack_linear int8": lambda: {
        "weight": randn(32, E, dtype=BF16),
        "out": quantized_weight(32, E, "int8"),
        "row_errors": randn(32),
    },
    "pack_gate_up int4": lambda: {
        "weight": randn(2 * F, E, dtype=BF16),
        "out": quantized_weight(2 * F, E),
        "row_errors": randn(2 * F),
    },
    "unpack_linear": lambda: {"packed": packed(32, E), "out": randn(32, E)},
    "unpack_linear int8": lambda: {"packed": quantized_weight(32, E, "int8"), "out": randn(32, E)},
    "unpack_gate_up int4": lambda: {"packed": quantized_weight(2 * F, E), "out": randn(2 * F, E)},
    "quantize": lambda: {"x": randn(T, E, dtype=BF16), "out": quantized_rows(T, E)},
    "embedding int8": lambda: {
        **VALID["embedding"](),
        "table": quantized_weight(V, E, "int8"),
    },
    "rms_norm quantized": lambda: {**VALID["rms_norm"](), "out": quantized_rows(T, E)},
    "layer_norm quantized": lambda: {**VALID["layer_norm"](), "out": quantized_rows(T, E)},
    "qkv_rope int4": lambda: {
        **qkv_rope_call(),
        "x": quantized_rows(T, E),
        "weight": quantized_weight((H + 2 * K) * D, E),
    },
    "linear int8": lambda: {
        **VALID["linear"](),
        "x": quantized_rows(T, E),
        "weight": quantized_weight(F, E, "int8"),
    },
    "mlp int4": lambda: {
        **VALID["mlp"](),
        "x": quantized_rows(T, E),
        "gate_up": ops.pack_gate_up(randn(2 * F, E), "int4-g32")._argument,
        "down": quantized_weight(E, F, "int4-g128"),
        "quantized_act": quantized_rows(T, F),
    },
    "lm_head int8": lambda: {
        **VALID["lm_head"](),
        "weight": quantized_weight(V, E, "int8"),
        "normed": quantized_rows(3, E),
    },
    "classify_head int4": lambda: {
        **VALID["classify_head"](),
        "weight": quantized_weight(V, E),
        "normed": quantized_rows(3, E),
    },
    "logprobs": lambda: {
        "logits": randn(3, V),
        "token_ids": i32(0, V - 1, 5),
        "out_logprobs": randn(3),
        "out_top_ids": i32(*range(12)).reshape(3, 4),
        "out_top_logprobs": randn(3, 4),
    },
}

# Dims that nothing else depends on: one more is as valid.
FREE_DIMS = {
    *(
        (op, "rope_table", dim)
        for op in ("qkv_rope", "qkv_rope int8", "qkv_rope int4")
        for dim in (0, 1, 2)
    ),
    *((op, "block_tables", 1) for op in ("attention", "attention int8")),
    *((f"lm_head{kind}", "h", 0) for kind in ("", " int8")),
    *((f"classify_head{kind}", "h", 0) for kind in ("", " int4")),
    ("quantize", "x", 1),  # up to 128 fill the same rows
    ("sample", "logits", 1),
    ("logprobs", "logits", 1),
}


def name_of(op: str) -> str:
    """The op's own name, of a key of VALID."""
    return op.split()[0]


def tensors(call: Call) -> dict[str, Tensor]:
    return {name: value for name, value in call.items() if isinstance(value, Tensor)}


def quantized_weights(call: Call) -> dict[str, Quantized]:
    return {
        name: value
        for name, value in call.items()
        if isinstance(value, tuple) and isinstance(value[0], Tensor)
    }


# The last two each stand for their group.
OPTIONAL = {
    *("bias", "norm_bias", "gate_up_bias", "down_bias"),
    *("row_errors", "min_p", "typical_p", "repetition", "bias_starts"),
}
TENSOR_ARGUMENTS = [(op, name) for op, make in VALID.items() for name in tensors(make())]
# One row or column less may still fill the same panels; 32 fewer never do.
WRONG_SIZES = [
    (op, name, dim, tensor.shape[dim] + change)
    for op, make in VALID.items()
    for name, tensor in tensors(make()).items()
    for dim in range(tensor.dim())
    for change in (-32, 1, 16)
    if (op, name, dim) not in FREE_DIMS and tensor.shape[dim] + change >= 0
]


def assert_refused(op: str, call: Call, message: str) -> None:
    """The call raises an Error that matches, and leaves every tensor as it was."""
    every = tensors(call) | {name: data for name, (data, *_) in quantized_weights(call).items()}
    before = {name: value.clone() for name, value in every.items()}
    with pytest.raises(_core.Error, match=message):
        getattr(_core, name_of(op))(**call)
    for name, value in before.items():
        if value.numel():
            assert_bitwise_equal(every[name], value)


@pytest.mark.parametrize("op", VALID)
def test_the_call_that_the_others_spoil_is_valid(op: str) -> None:
    assert getattr(_core, name_of(op))(**VALID[op]()) is None


@pytest.mark.parametrize(("op", "arg"), TENSOR_ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16, torch.bool])
def test_a_wrong_dtype_is_named(op: str, arg: str, dtype: torch.dtype) -> None:
    call = VALID[op]()
    call[arg] = torch.zeros(call[arg].shape, dtype=dtype)
    assert_refused(op, call, rf"^{name_of(op)}: {arg} (is|has) .*, expected ")


@pytest.mark.parametrize(("op", "arg"), TENSOR_ARGUMENTS)
def test_a_wrong_rank_is_named(op: str, arg: str) -> None:
    for change in (lambda t: t[None], lambda t: t.flatten()[0], lambda t: t[None, None, None]):
        call = VALID[op]()
        call[arg] = change(call[arg])
        assert_refused(op, call, rf"^{name_of(op)}: {arg} (has rank|is a)")


@pytest.mark.parametrize(("op", "arg", "dim", "size"), WRONG_SIZES)
def test_a_wrong_size_is_named(op: str, arg: str, dim: int, size: int) -> None:
    call = VALID[op]()
    shape = list(call[arg].shape)
    shape[dim] = size
    call[arg] = torch.zeros(shape, dtype=call[arg].dtype)
    assert_refused(op, call, rf"^{name_of(op)}: \w+ .*\d+")


@pytest.mark.parametrize(("op", "arg"), TENSOR_ARGUMENTS)
def test_a_tensor_that_is_not_dense_is_named(op: str, arg: str) -> None:
    call = VALID[op]()
    call[arg] = call[arg].repeat_interleave(2, dim=-1)[..., ::2]
    assert_refused(op, call, rf"^{name_of(op)}: {arg} is not contiguous")


@pytest.mark.parametrize(("op", "arg"), TENSOR_ARGUMENTS)
@pytest.mark.parametrize("value", [[1.0, 2.0], "text", 3, object()], ids=lambda v: type(v).__name__)
def test_an_argument_that_is_no_tensor_is_a_type_error(op: str, arg: str, value: object) -> None:
    with pytest.raises(TypeError):
        getattr(_core, name_of(op))(**{**VALID[op](), arg: value})


@pytest.mark.parametrize(("op", "arg"), TENSOR_ARGUMENTS)
def test_none_is_refused_except_for_what_is_optional(op: str, arg: str) -> None:
    call = {**VALID[op](), arg: None}
    if arg in OPTIONAL and (name_of(op), arg) != ("layer_norm", "bias"):
        getattr(_core, name_of(op))(**call)
    else:
        with pytest.raises((TypeError, _core.Error)):
            getattr(_core, name_of(op))(**call)


def test_a_read_only_output_is_refused() -> None:
    out = np.zeros((T, E), dtype=np.float32)
    out.flags.writeable = False
    call = {**VALID["embedding"](), "out": out}
    with pytest.raises((_core.Error, BufferError, TypeError)):
        _core.embedding(**call)
    assert (out == 0).all()


@pytest.mark.parametrize(
    ("op", "arg"), [("embedding", "out"), ("rms_norm", "out"), ("linear", "out"), ("mlp", "h")]
)
def test_an_output_with_overlapping_rows_is_refused(op: str, arg: str) -> None:
    call = VALID[op]()
    call[arg] = call[arg][:1].expand(T, -1)
    assert_refused(op, call, f"^{name_of(op)}: {arg} ")


def test_a_tensor_without_memory_is_refused() -> None:
    call = {**VALID["rms_norm"](), "h": torch.empty(T, E, device="meta")}
    with pytest.raises(RuntimeError, match="meta"):  # torch's own
        _core.rms_norm(**call)


def at(index: tuple[int, ...] | int, value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[index] = value
        return tensor

    return change


BIG = 2**31 - 1

INDEX_CASES: list[tuple[str, str, int | tuple[int, ...], float, str]] = [
    *(("embedding", "token_ids", 3, bad, "token_ids[3]") for bad in (-1, V, BIG, -BIG)),
    *(("qkv_rope", "positions", 4, bad, "positions[4]") for bad in (-1, 10, BIG)),
    *(("qkv_rope", "rope_sets", 0, bad, "rope_sets[0]") for bad in (-1, 2, BIG)),
    *(("qkv_rope", "slots", 2, bad, "slots[2]") for bad in (-1, 16 * N, BIG)),
    *(("qkv_rope int8", "slots", 2, bad, "slots[2]") for bad in (-1, 16 * N, BIG)),
    *(("attention", "block_tables", (1, 2), bad, "block_tables[1, 2]") for bad in (-1, N, BIG)),
    *(("attention int8", "block_tables", (1, 2), bad, "block_tables[1, 2]") for bad in (-1, N)),
    ("attention", "block_tables", (0, 0), -1, "block_tables[0, 0]"),
    ("attention", "query_starts", 0, 1, "query_starts[0]"),
    ("attention", "query_starts", 0, -1, "query_starts[0]"),
    ("attention", "query_starts", 1, 6, "query_starts["),
    ("attention", "query_starts", 1, -1, "query_starts[1]"),
    ("attention", "query_starts", 2, 4, "query_starts[2]"),
    ("attention", "query_starts", 2, 6, "query_starts[2]"),
    ("attention", "query_starts", 2, BIG, "context_lens[1]"),  # fewer than so many queries
    ("attention", "context_lens", 1, 2, "context_lens[1]"),
    ("attention", "context_lens", 1, 0, "context_lens[1]"),
    ("attention", "context_lens", 1, -5, "context_lens[1]"),
    ("attention", "context_lens", 1, 16 * M + 1, "context_lens[1]"),
    ("attention", "context_lens", 0, BIG, "context_lens[0]"),
    *(("lm_head", "rows", 1, bad, "rows[1]") for bad in (-1, T, BIG)),
    *(("classify_head", "rows", 2, bad, "rows[2]") for bad in (-1, T, BIG)),
    *(("sample", "temperature", 1, bad, "temperature[1]") for bad in (-0.5, math.nan, math.inf)),
    ("sample", "top_k", 2, -1, "top_k[2]"),
    *(("sample", "top_p", 0, bad, "top_p[0]") for bad in (0.0, -0.1, 1.01, math.nan)),
    ("sample", "sequence_indices", 1, -1, "sequence_indices[1]"),
    *(("sample", "min_p", 1, bad, "min_p[1]") for bad in (-0.1, 1.01, math.nan)),
    *(("sample", "typical_p", 1, bad, "typical_p[1]") for bad in (0.0, 1.01, math.nan)),
    *(("sample", "repetition", 1, bad, "repetition[1]") for bad in (0.0, -1.0, math.nan, math.inf)),
    *(("sample", "presence", 2, bad, "presence[2]") for bad in (math.nan, math.inf)),
    *(("sample", "frequency", 2, bad, "frequency[2]") for bad in (math.nan, -math.inf)),
    ("sample", "seen_starts", 0, 1, "seen_starts[0]"),
    ("sample", "seen_starts", 1, -1, "seen_starts[1]"),
    ("sample", "seen_starts", 2, 1, "seen_starts[2]"),
    ("sample", "seen_starts", 2, BIG, "seen_starts[3]"),
    *(("sample", "seen_starts", 3, bad, "seen_starts[3]") for bad in (2, 4, BIG)),
    *(("sample", "seen_ids", 2, bad, "seen_ids[2]") for bad in (-1, V, BIG)),
    ("sample", "seen_counts", 1, -1, "seen_counts[1]"),
    ("sample", "bias_starts", 3, 3, "bias_starts[3]"),
    *(("sample", "bias_ids", 0, bad, "bias_ids[0]") for bad in (-1, V, BIG)),
    *(("sample", "bias_values", 0, bad, "bias_values[0]") for bad in (math.inf, math.nan)),
    ("sample", "positions", 1, -1, "positions[1]"),
    *(("logprobs", "token_ids", 2, bad, "token_ids[2]") for bad in (-1, V, BIG, -BIG)),
]


@pytest.mark.parametrize(("op", "arg", "index", "value", "place"), INDEX_CASES)
def test_a_value_out_of_range_is_named(
    op: str, arg: str, index: int | tuple[int, ...], value: float, place: str
) -> None:
    call = VALID[op]()
    call[arg] = at(index, value)(call[arg])
    assert_refused(op, call, rf"^{name_of(op)}: {re.escape(place)}")


def test_packed_embedding_checks_ids_against_the_vocabulary_not_the_padding() -> None:
    table, out = ops.pack_linear(randn(37, E, dtype=BF16)), torch.zeros(1, E)
    ops.embedding(i32(36), table, out)
    for bad in (37, 47, 48):
        with pytest.raises(ops.Error, match=rf"token_ids\[0\] is {bad}"):
            ops.embedding(i32(bad), table, out)


SCALAR_CASES: list[tuple[str, str, float]] = [
    ("attention", "window", -1),
    ("attention", "scale", math.nan),
    ("attention", "scale", math.inf),
    *((op, "scale", bad) for op in ("embedding", "lm_head") for bad in (0.0, -1.0, math.nan)),
    *(("mlp", "gegelu_limit", bad) for bad in (0.0, -1.0, math.nan, -math.inf)),
    ("embedding", "vocab_size", V - 1),
    ("embedding", "vocab_size", V + 1),
    ("embedding", "vocab_size", -1),
    *(
        (op, "eps", bad)
        for op in ("rms_norm", "layer_norm", "lm_head", "classify_head")
        for bad in (-1e-5, math.nan, math.inf)
    ),
]


@pytest.mark.parametrize(("op", "arg", "value"), SCALAR_CASES)
def test_a_scalar_out_of_range_is_named(op: str, arg: str, value: float) -> None:
    assert_refused(
        op, {**VALID[op](), arg: value}, rf"^{name_of(op)}: .*{arg}|^{name_of(op)}: table"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("block_size", bad) for bad in (0, -16, 8, 24, 48, 192, 512, 2**40)),
        *(("num_local_blocks", bad) for bad in (0, -1, 2**31)),
        *(("vertical_stride", bad) for bad in (0, -1, 2**31)),
        *(("head_step", bad) for bad in (-1, 2**31)),
    ],
)
def test_a_block_sparse_pattern_out_of_range_is_named(field: str, value: int) -> None:
    pattern = {"block_size": 16, "num_local_blocks": 1, "vertical_stride": 2, "head_step": 0}
    pattern[field] = value
    call = {**VALID["attention"](), "block_sparse": tuple(pattern.values())}
    assert_refused("attention", call, rf"^attention: block_sparse\.{field} is {value}, expected ")


def test_a_block_sparse_pattern_has_no_window() -> None:
    call = {**VALID["attention"](), "block_sparse": (16, 1, 2, 0), "window": 5}
    assert_refused("attention", call, "^attention: window is 5, expected 0 with block_sparse")


@pytest.mark.parametrize("value", [(16, 1, 2), (16, 1, 2, 0, 0), (16.5, 1, 2, 0), "text", 16])
def test_a_block_sparse_pattern_of_another_form_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        _core.attention(**{**VALID["attention"](), "block_sparse": value})


def test_accumulating_into_bfloat16_is_refused() -> None:
    assert_refused("linear", {**VALID["linear"](), "accumulate": True}, "^linear: .*accumulate")


@pytest.mark.parametrize("op", ["qkv_rope", "attention"])
def test_int8_pages_and_scales_come_together(op: str) -> None:
    int8, floats = int8_pages(), pages()
    scales = {name: tensor for name, tensor in int8.items() if name not in floats}
    without = {**VALID[op](), **int8, **dict.fromkeys(scales)}
    assert_refused(op, without, f"^{op}: v_pages is int8, expected bfloat16")
    assert_refused(op, {**VALID[op](), **scales}, f"^{op}: v_pages is bfloat16, expected int8")


def test_heads_that_are_no_multiple_of_kv_heads_are_refused() -> None:
    call = VALID["attention"]()
    call["q"], call["out"] = randn(T, 3, D, dtype=BF16), randn(T, 3 * D, dtype=BF16)
    assert_refused("attention", call, "^attention: .*H")


@pytest.mark.parametrize("head_dim", [8, 24, 40, 272])
def test_a_head_dim_that_is_no_multiple_of_16_or_too_large_is_refused(head_dim: int) -> None:
    k_shape, v_shape = ops.kv_cache_shapes(N, K, head_dim, BF16)
    call = {
        **VALID["attention"](),
        "q": randn(T, H, head_dim, dtype=BF16),
        "k_pages": randn(*k_shape, dtype=BF16),
        "v_pages": randn(*v_shape, dtype=BF16),
        "out": randn(T, H * head_dim, dtype=BF16),
    }
    assert_refused("attention", call, "^attention: .*D")


def test_more_rotary_dims_than_the_head_has_are_refused() -> None:
    call = {**VALID["qkv_rope"](), "rope_table": randn(2, 10, D // 2 + 1, 2)}
    assert_refused("qkv_rope", call, "^qkv_rope: .*R")


@pytest.mark.parametrize("num_threads", [-1, 257, 2**31 - 1])
def test_a_number_of_threads_out_of_range_is_refused(num_threads: int) -> None:
    before = ops.num_threads()
    with pytest.raises(ops.Error, match="num_threads"):
        ops.set_num_threads(num_threads)
    assert ops.num_threads() == before


@pytest.mark.parametrize("name", ["", "avx1024", "AVX2", "portable "])
def test_an_unknown_isa_is_refused_naming_those_there_are(name: str) -> None:
    before = ops.isa()
    with pytest.raises(ops.Error, match=ops.available_isas()[0]):
        ops.set_isa(name)
    assert ops.isa() == before


def test_an_error_is_a_value_error() -> None:
    assert issubclass(ops.Error, ValueError)
