"""RoPE tables: every variant against float64, and against transformers where it has the variant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from phi3svc.config.model import Phi3Config
from phi3svc.config.rope import RopeConfig
from phi3svc.model.rope import RopeTables, inverse_frequencies
from tests.model import rope_reference as reference
from tests.model.checkpoints import make_config

HEAD_DIM = 96
SHORT = [1.0 + 0.04 * i for i in range(HEAD_DIM // 2)]
LONG = [1.1 + 0.9 * i for i in range(HEAD_DIM // 2)]
LISTS = {"short_factor": SHORT, "long_factor": LONG}
LENGTHS = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
POSITIONS = (0, 1, 2, 255, 256, 4095, 4096, 20_000, 32_767)


def read(rope_scaling: dict[str, Any] | None, **overrides: Any) -> RopeConfig:
    """From a config.json with heads of 96 dims, in transformers 4's dialect."""
    return Phi3Config.from_dict(
        {
            "model_type": "phi3",
            "hidden_size": 192,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 300,
            "rope_scaling": rope_scaling,
        }
        | LENGTHS
        | overrides
    ).rope


YARN = {"type": "yarn", "factor": 32.0}
VARIANTS: dict[str, tuple[RopeConfig, list[reference.Frequencies], list[float]]] = {
    "default": (read(None), [reference.plain(1e4, 96)], [1]),
    "default, theta": (read(None, rope_theta=250000), [reference.plain(250000, 96)], [1]),
    "default, partial": (
        read(None, partial_rotary_factor=0.75),
        [reference.plain(1e4, 72)],
        [1],
    ),
    "linear": (
        read({"type": "linear", "factor": 2.5}),
        [reference.linear(1e4, 96, 2.5)],
        [1],
    ),
    "linear, partial": (
        read({"type": "linear", "factor": 8}, partial_rotary_factor=0.5, rope_theta=5e5),
        [reference.linear(5e5, 48, 8)],
        [1],
    ),
    "dynamic": (
        read({"type": "dynamic", "factor": 6.0}, max_position_embeddings=4096),
        [reference.ntk(1e4, 96, 6, 4096, n) for n in (4096, 8192, 16384, 24576)],
        [1, 1, 1, 1],
    ),
    "dynamic, partial": (
        read(
            {"type": "dynamic", "factor": 2.0},
            max_position_embeddings=1000,
            partial_rotary_factor=0.75,
        ),
        [reference.ntk(1e4, 72, 2, 1000, n) for n in (1000, 2000)],
        [1, 1],
    ),
    "yarn": (read(YARN), [reference.yarn(1e4, 96, 32, 4096)], [reference.yarn_scale(32)]),
    "yarn, partial": (
        read(YARN, partial_rotary_factor=0.75, rope_theta=1e6),
        [reference.yarn(1e6, 72, 32, 4096)],
        [reference.yarn_scale(32)],
    ),
    "yarn, every option": (
        read(YARN | {"beta_fast": 20, "beta_slow": 2.5, "truncate": False, "mscale": 0.7}),
        [reference.yarn(1e4, 96, 32, 4096, 20, 2.5, False)],
        [reference.yarn_scale(32)],
    ),
    "yarn, mscales": (
        read(YARN | {"mscale": 0.707, "mscale_all_dim": 0.4}),
        [reference.yarn(1e4, 96, 32, 4096)],
        [reference.yarn_scale(32, 0.707) / reference.yarn_scale(32, 0.4)],
    ),
    "yarn, attention factor": (
        read(YARN | {"attention_factor": 1.5, "mscale": 1, "mscale_all_dim": 2}),
        [reference.yarn(1e4, 96, 32, 4096)],
        [1.5],
    ),
    "longrope": (
        read({"type": "longrope"} | LISTS),
        [reference.longrope(1e4, SHORT), reference.longrope(1e4, LONG)],
        [reference.longrope_scale(32, 4096)] * 2,
    ),
    "longrope, partial": (
        read({"type": "su", "short_factor": SHORT[:36], "long_factor": LONG[:36]}
             , partial_rotary_factor=0.75),
        [reference.longrope(1e4, SHORT[:36]), reference.longrope(1e4, LONG[:36])],
        [reference.longrope_scale(32, 4096)] * 2,
    ),
    "legacy Phi-3 YaRN": (
        read({"type": "phi3_yarn"} | LISTS),
        [reference.longrope(1e4, SHORT), reference.longrope(1e4, LONG)],
        [1.3465735902799727] * 2,
    ),
    "a factor for each set, scaled positions": (
        RopeConfig(
            "longrope", 1e6, 96, (1.0, 1.25), tuple(SHORT), tuple(LONG), 4096, position_scale=0.25
        ),
        [reference.longrope(1e6, SHORT) / 4, reference.longrope(1e6, LONG) / 4],
        [1, 1.25],
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_equals_float64(variant: str) -> None:
    config, frequencies, scales = VARIANTS[variant]
    rope = RopeTables(config)
    rope.ensure(POSITIONS[-1] + 1)
    assert rope.table.dtype == torch.float32
    assert len(rope.table) == config.num_sets == len(frequencies)
    for table, w, scale in zip(rope.table, frequencies, scales, strict=True):
        expected = reference.cos_sin(w, POSITIONS, scale)
        error = np.abs(table[list(POSITIONS)].double().numpy() - expected)
        # An angle has float32's relative error, of the frequency and of the product.
        angle = np.array(POSITIONS)[:, None, None] * w[None, :, None]
        assert (error <= 4e-7 * scale * (1 + angle)).all()


@pytest.mark.parametrize("partial", [1.0, 0.75])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("dynamic", {}),
        ("yarn", {}),
        ("yarn", {"beta_fast": 20.0, "beta_slow": 2.5, "truncate": False}),
        ("yarn", {"mscale": 0.707, "mscale_all_dim": 0.4}),
        ("yarn", {"beta_fast": 0, "beta_slow": 0, "mscale": 0, "mscale_all_dim": 1.0}),
        ("yarn", {"attention_factor": 1.5}),
    ],
    ids=str,
)
def test_scaling_equals_what_transformers_computes(
    name: str, partial: float, options: dict[str, Any]
) -> None:
    """To the bit. Its Phi3Config refuses these types; its functions take any model's config."""
    parameters = {"rope_type": name, "rope_theta": 5e4, "factor": 5.0}
    if name == "yarn":
        parameters |= {"original_max_position_embeddings": 4096} | options
    theirs = transformers.LlamaConfig(
        hidden_size=192,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters=parameters | {"partial_rotary_factor": partial},
    )
    ours = read(None, max_position_embeddings=4096, rope_parameters=parameters,
                partial_rotary_factor=partial)  # fmt: skip
    frequencies = inverse_frequencies(ours)
    for set_idx in range(ours.num_sets):
        num_tokens = ours.dynamic_len(set_idx) if name == "dynamic" else None
        expected, factor = ROPE_INIT_FUNCTIONS[name](theirs, seq_len=num_tokens)
        assert frequencies[set_idx].equal(expected)
        assert ours.attention_factors[set_idx] == factor


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_size": 384},
        {"hidden_size": 384, "original": 64},
        {"hidden_size": 128, "original": 64, "partial_rotary_factor": 0.75},
    ],
    ids=["default", "longrope", "partial"],
)
@pytest.mark.parametrize("last_position", [63, 64, 131071])
def test_table_equals_transformers(overrides: dict[str, Any], last_position: int) -> None:
    theirs = make_config(max_position_embeddings=131072, **overrides)
    ours = Phi3Config.from_dict(theirs.to_dict() | {"architectures": None}).rope
    rope = RopeTables(ours)
    rope.ensure(131072)
    positions = torch.arange(max(0, last_position - 40), last_position + 1)
    rotary = transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(theirs)
    cos, sin = rotary(torch.zeros(1), positions[None])
    table = rope.table[ours.set_of(last_position + 1), positions]
    half = table.shape[1]
    assert cos.shape[-1] == 2 * half
    torch.testing.assert_close(table[..., 0], cos[0, :, :half], rtol=0, atol=3e-7)
    torch.testing.assert_close(table[..., 1], sin[0, :, :half], rtol=0, atol=3e-7)


@pytest.mark.parametrize("variant", ["dynamic", "longrope", "yarn"])
def test_growing_keeps_bits(variant: str) -> None:
    grown, at_once = RopeTables(VARIANTS[variant][0]), RopeTables(VARIANTS[variant][0])
    for num_positions in (1, 257, 300, 3000):
        grown.ensure(num_positions)
        assert grown.num_positions >= num_positions
    at_once.ensure(grown.num_positions)
    assert grown.table.equal(at_once.table)
