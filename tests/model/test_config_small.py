"""Phi-3-small's config.json: defaults as in Microsoft's class, and one line for anything absurd."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phi3svc.config.model import Phi3Config, Phi3SmallSettings
from phi3svc.errors import ConfigError

SMALL_8K: dict[str, Any] = {
    "architectures": ["Phi3SmallForCausalLM"],
    "model_type": "phi3small",
    "ff_intermediate_size": 14336,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 100352,
}
LONGROPE = {
    "type": "su",
    "short_factor": [1.0] * 64,
    "long_factor": [1.0 + i for i in range(64)],
    "original_max_position_embeddings": 8192,
}


def small(**overrides: Any) -> dict[str, Any]:
    """Phi-3-small-8k's sizes with some fields replaced; a value of ... drops the field."""
    return {k: v for k, v in (SMALL_8K | overrides).items() if v is not ...}


def test_small_8k() -> None:
    config = Phi3Config.from_dict(small(), {"eos_token_id": 100257})
    assert config.num_params == pytest.approx(7.3923e9, rel=1e-4)
    assert config.tie_word_embeddings
    assert config.task == "generation"
    assert config.dtype == "bfloat16"
    assert config.eos_token_ids == (100257, 100266)
    assert (config.bos_token_id, config.pad_token_id) == (100257, None)
    assert config.kv_bytes_per_token("bfloat16") == 131072
    assert (config.rope.theta, config.rope.rotary_dim, config.is_longrope) == (1e6, 128, False)
    assert config.small == Phi3SmallSettings(
        embedding_multiplier=10.0,
        width_multiplier=8.0,
        attention_scale=1 / 128,
        gegelu_limit=20.0,
        block_size=64,
        num_local_blocks=16,
        vertical_stride=8,
        head_step=1,
        dense_every=2,
    )
    assert [i for i in range(6) if config.small.is_dense(i)] == [1, 3, 5]


def test_small_128k() -> None:
    config = Phi3Config.from_dict(small(max_position_embeddings=131072, rope_scaling=LONGROPE))
    assert config.is_longrope
    assert config.rope.attention_factors == (1.0, pytest.approx(1.1435437497937313, abs=1e-12))
    assert [config.rope_set(n) for n in (1, 8192, 8193)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"short_mscale": -1, "long_mscale": -1}, (1.0, 1.1435437497937313)),
        ({"short_mscale": 1.1, "long_mscale": 1.2}, (1.1, 1.2)),
    ],
)
def test_mscales(given: dict[str, float], expected: tuple[float, float]) -> None:
    config = Phi3Config.from_dict(
        small(max_position_embeddings=131072, rope_scaling=LONGROPE | given)
    )
    assert config.rope.attention_factors == pytest.approx(expected)


def test_what_null_and_zero_turn_off() -> None:
    config = Phi3Config.from_dict(
        small(
            gegelu_limit=None,
            mup_embedding_multiplier=None,
            mup_width_multiplier=0,
            mup_use_scaling=False,
            dense_attention_every_n_layers=None,
            blocksparse_homo_head_pattern=True,
        )
    )
    assert config.small is not None
    assert config.small.gegelu_limit == math.inf
    assert (config.small.embedding_multiplier, config.small.width_multiplier) == (1.0, 1.0)
    assert config.small.attention_scale == pytest.approx(128**-0.5)
    assert (config.small.dense_every, config.small.head_step) == (0, 0)
    assert not config.small.is_dense(1)


def test_mlp_width_from_a_multiplier() -> None:
    config = Phi3Config.from_dict(small(ff_intermediate_size=None, ff_dim_multiplier=5))
    assert config.intermediate_size == 13824  # 5 · 1365 · 2, to the next multiple of 256
    exact = small(ff_intermediate_size=None, ff_dim_multiplier=5, gegelu_pad_to_256=False)
    assert Phi3Config.from_dict(exact).intermediate_size == 13650


def test_a_head_step_above_one() -> None:
    config = Phi3Config.from_dict(small(blocksparse_vert_stride=100))
    assert config.small is not None
    assert config.small.head_step == 3


ABSURD: dict[str, dict[str, Any]] = {
    "hidden_act is 'silu'": small(hidden_act="silu"),
    "architectures is ['Phi3ForCausalLM']": small(architectures=["Phi3ForCausalLM"]),
    "hidden_size is missing": small(hidden_size=...),
    "ff_intermediate_size is missing": small(ff_intermediate_size=...),
    "ff_intermediate_size is 14336": small(ff_dim_multiplier=4),
    "blocksparse_block_size is 48": small(blocksparse_block_size=48),
    "blocksparse_num_local_blocks is 0": small(blocksparse_num_local_blocks=0),
    "blocksparse_vert_stride is 0": small(blocksparse_vert_stride=0),
    "num_key_value_heads is 7": small(num_key_value_heads=7),
    "mup_attn_multiplier is -1": small(mup_attn_multiplier=-1),
    # In float32 these would be 0, or infinity for one over them.
    "mup_attn_multiplier is 1e-40": small(mup_attn_multiplier=1e-40),
    "mup_embedding_multiplier is 1e-50": small(mup_embedding_multiplier=1e-50),
    "mup_width_multiplier is 1e-39": small(mup_width_multiplier=1e-39),
    "gegelu_limit is 1e-50": small(gegelu_limit=1e-50),
    "rope_scaling.long_factor[0] is 1e-50": small(
        rope_scaling=LONGROPE | {"long_factor": [1e-50] * 64}
    ),
    "mup_width_multiplier is 'x'": small(mup_width_multiplier="x"),
    "gegelu_limit is -20": small(gegelu_limit=-20),
    "rope_scaling.type is 'yarn'": small(rope_scaling=LONGROPE | {"type": "yarn"}),
    "rope_scaling.short_factor has 3": small(rope_scaling=LONGROPE | {"short_factor": [1, 2, 3]}),
    "rope_scaling.original_max_position_embeddings is missing": small(
        rope_scaling={"type": "su", "short_factor": [1.0] * 64, "long_factor": [1.0] * 64}
    ),
    "rope_scaling.long_mscale is -7": small(rope_scaling=LONGROPE | {"long_mscale": -7}),
}


@pytest.mark.parametrize("message", ABSURD)
def test_absurd_field_is_named(message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Phi3Config.from_dict(ABSURD[message])
    text = str(caught.value)
    assert "\n" not in text
    assert message in text
