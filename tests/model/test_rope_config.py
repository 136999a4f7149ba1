"""The RoPE family in config.json: names, dialects, lengths, sets, and one line for a bad value."""

from __future__ import annotations

from typing import Any

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.config.rope import ROPE_TYPES
from phi3svc.errors import ConfigError

LISTS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "longrope": LISTS,
    "su": LISTS,
    "phi3_yarn": LISTS,
}


def read(rope: dict[str, Any] | None = None, **overrides: Any) -> Phi3Config:
    """Heads of 16 dims, 1000 positions; `rope` is rope_scaling; a value of ... drops the field."""
    fields = {
        "model_type": "phi3",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 1000,
        "original_max_position_embeddings": 100,
        "rope_scaling": rope,
    }
    merged = {key: value for key, value in (fields | overrides).items() if value is not ...}
    return Phi3Config.from_dict(merged)


@pytest.mark.parametrize("name", ROPE_TYPES)
def test_both_dialects_mean_the_same(name: str) -> None:
    beside = {"rope_theta": 2e4, "partial_rotary_factor": 0.75}
    lists = {key: value[:6] if key in LISTS else value for key, value in TYPES[name].items()}
    old = read({"type": name} | lists, **beside)
    assert read({"rope_type": name} | lists, **beside) == old
    assert read(..., rope_parameters={"rope_type": name} | lists | beside) == old
    assert (old.rope.theta, old.rope.rotary_dim) == (2e4, 12)


def test_yarn_with_factor_lists_is_longrope() -> None:
    """As transformers reads it; "phi3_yarn" has the factor of Microsoft's first code."""
    assert read({"type": "yarn"} | LISTS) == read({"type": "longrope"} | LISTS)
    legacy = read({"type": "phi3_yarn"} | LISTS).rope
    assert legacy.attention_factors == pytest.approx((1.2302585092994046,) * 2, abs=1e-15)
    given = read({"type": "phi3_yarn", "attention_factor": 1.5} | LISTS).rope
    assert given.attention_factors == (1.5, 1.5)


@pytest.mark.parametrize(
    ("rope", "overrides", "original", "context_len"),
    [
        (None, {}, 0, 1000),
        ({"type": "longrope"} | LISTS, {}, 100, 1000),
        ({"type": "linear", "factor": 2.5}, {}, 1000, 2500),
        ({"type": "dynamic", "factor": 2.5}, {}, 1000, 2500),
        ({"type": "dynamic", "factor": 1}, {}, 1000, 1000),
        # max_position_embeddings after stretching, and before
        ({"type": "yarn", "factor": 10.0}, {}, 100, 1000),
        ({"type": "yarn"}, {}, 100, 1000),
        ({"type": "yarn", "factor": 20.0}, {}, 100, 2000),
        ({"type": "yarn", "factor": 2.0}, {}, 100, 1000),
        ({"type": "yarn", "factor": 3.0}, {"original_max_position_embeddings": ...}, 1000, 3000),
        (
            {"type": "yarn", "factor": 3.0, "original_max_position_embeddings": 500},
            {"original_max_position_embeddings": ...},
            500,
            1500,
        ),
        (
            {"type": "yarn", "factor": 30.0, "original_max_position_embeddings": 500},
            {"original_max_position_embeddings": 100},
            100,
            3000,
        ),
    ],
    ids=str,
)
def test_served_length(
    rope: dict[str, Any] | None, overrides: dict[str, Any], original: int, context_len: int
) -> None:
    config = read(rope, **overrides)
    assert config.rope.original_max_position_embeddings == original
    assert config.context_len == context_len
    assert config.max_position_embeddings == 1000


@pytest.mark.parametrize(
    ("rope", "first_of_each_set"),
    [
        (None, [0]),
        ({"type": "linear", "factor": 4}, [0]),
        ({"type": "yarn", "factor": 4}, [0]),
        ({"type": "longrope"} | LISTS, [0, 101]),
        ({"type": "dynamic", "factor": 1}, [0]),
        ({"type": "dynamic", "factor": 1.5}, [0, 1001]),
        ({"type": "dynamic", "factor": 4}, [0, 1001, 2001]),
        ({"type": "dynamic", "factor": 4.1}, [0, 1001, 2001, 4001]),
    ],
    ids=str,
)
def test_set_of_every_length(rope: dict[str, Any] | None, first_of_each_set: list[int]) -> None:
    config = read(rope)
    assert config.rope.num_sets == len(first_of_each_set)
    for num_tokens in range(config.context_len + 1):
        expected = sum(num_tokens >= first for first in first_of_each_set) - 1
        assert config.rope_set(num_tokens) == expected


def test_longest_of_each_dynamic_set() -> None:
    rope = read({"type": "dynamic", "factor": 5.0}).rope
    assert [rope.dynamic_len(i) for i in range(rope.num_sets)] == [1000, 2000, 4000, 5000]


def one(name: str, **values: Any) -> dict[str, Any]:
    return {"type": name} | TYPES[name] | values


BAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rope_scaling.type is 'llama3'; expected default or linear or dynamic or yarn or longrope "
    "or su or phi3_yarn": ({"type": "llama3"}, {}),
    "rope_scaling.factor is 0.5; expected a number from 1 to": (one("linear", factor=0.5), {}),
    "rope_scaling.factor is missing": ({"type": "dynamic"}, {}),
    "rope_scaling.factor is '4'": (one("dynamic", factor="4"), {}),
    "rope_scaling.factor is True": (one("linear", factor=True), {}),
    "rope_scaling.factor is nan": (one("yarn", factor=float("nan")), {}),
    "rope_scaling.factor is 100000.0": (one("dynamic", factor=1e5), {}),
    "rope_scaling.factor is -1": (one("yarn", factor=-1), {}),
    "rope_scaling.factor is missing; expected a number from 1": (
        {"type": "yarn", "original_max_position_embeddings": 2000},
        {"original_max_position_embeddings": ...},
    ),
    "rope_scaling.original_max_position_embeddings is 1;": (
        one("yarn", original_max_position_embeddings=1),
        {"original_max_position_embeddings": ...},
    ),
    "rope_scaling.beta_slow is 33.0; expected at most beta_fast=32": (
        one("yarn", beta_slow=33.0),
        {},
    ),
    "rope_scaling.beta_slow is 1.0; expected at most beta_fast=0.5": (
        one("yarn", beta_fast=0.5),
        {},
    ),
    "rope_scaling.beta_fast is -3": (one("yarn", beta_fast=-3), {}),
    "rope_scaling.beta_fast is inf": (one("yarn", beta_fast=float("inf")), {}),
    "rope_scaling.beta_slow is 5e-324": (one("yarn", beta_slow=5e-324), {}),
    "rope_scaling.beta_fast is 5e-324": (one("yarn", beta_fast=5e-324), {}),
    "rope_scaling.short_factor[0] is 1e-50": (one("longrope", short_factor=[1e-50] * 8), {}),
    "rope_scaling.mscale is '1'": (one("yarn", mscale="1"), {}),
    "rope_scaling.mscale_all_dim is False": (one("yarn", mscale_all_dim=False), {}),
    "rope_scaling.attention_factor is -1": (one("yarn", attention_factor=-1), {}),
    "rope_scaling.truncate is 1;": (one("yarn", truncate=1), {}),
    "rope_scaling.long_factor is missing": (one("yarn", short_factor=[1.0] * 8), {}),
    "rope_scaling.short_factor has 9 numbers; expected 8": (
        one("phi3_yarn", short_factor=[1.0] * 9),
        {},
    ),
    "partial_rotary_factor is 0.125; expected a factor that leaves 4 dims": (
        one("dynamic"),
        {"partial_rotary_factor": 0.125},
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_value_is_one_line_that_names_the_field(message: str) -> None:
    rope, overrides = BAD[message]
    with pytest.raises(ConfigError) as caught:
        read(rope, **overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
