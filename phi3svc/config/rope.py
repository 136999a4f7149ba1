"""The rotary embedding's settings, in either dialect of config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from phi3svc.config.json_file import Fields

MAX_POSITIONS = 1 << 24
LEAST = 1e-6
"""Factors are above it: far below, float32 has but zero for them, or infinity for one over them."""

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope"]

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "su", "phi3_yarn")
"""What config.json may say. "su" is LongRoPE's first name, and so is "yarn" with factor lists.

"phi3_yarn" is this project's own: see `_read_longrope`.
"""


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: S sets of R/2 inverse frequencies, of which a sequence uses one.

    rotary_dim (R): how many leading dims of a head rotate, even. attention_factors: what cos and
    sin are multiplied by, one for each set. short_factor, long_factor: with "longrope", R/2
    divisors of the inverse frequencies each, of set 0 and set 1.
    original_max_position_embeddings: the length, in tokens, before any stretching; 0 with
    "default", which has none. factor: how far
    "linear", "dynamic" and "yarn" stretch it, at least 1. beta_fast, beta_slow, truncate: YaRN's
    ramp, from the dims that turn beta_fast times within the original length, which stay as they
    are, to those that turn beta_slow times, which are stretched in full; truncate puts its ends on
    whole dims. position_scale: positions are multiplied by it.
    """

    rope_type: RopeType
    theta: float
    rotary_dim: int
    attention_factors: tuple[float, ...] = (1.0,)
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_max_position_embeddings: int = 0
    factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    position_scale: float = 1.0

    @property
    def num_sets(self) -> int:
        """S."""
        return len(self.attention_factors)

    @property
    def stretched_len(self) -> int:
        """Tokens that the original length is stretched to by `factor`; 0 where none is."""
        if self.rope_type not in ("linear", "dynamic", "yarn"):
            return 0
        return int(self.original_max_position_embeddings * self.factor)

    def set_of(self, num_tokens: int) -> int:
        """The set of a whole sequence of `num_tokens` tokens; all its tokens use that one.

        LongRoPE: 1, the long factors, beyond the original length, else 0; transformers takes them
        once max(position) + 1 exceeds it (`longrope_frequency_update`). Dynamic NTK: 0 up to the
        original length, then one more with every doubling of it; see `dynamic_len`.
        """
        if self.rope_type == "longrope":
            return int(num_tokens > self.original_max_position_embeddings)
        if self.rope_type == "dynamic":
            num_originals = max(0, num_tokens - 1) // self.original_max_position_embeddings
            return min(num_originals.bit_length(), self.num_sets - 1)
        return 0

    def dynamic_len(self, set_idx: int) -> int:
        """For how many tokens dynamic NTK computes the base of a set: the longest that use it.

        transformers computes the base anew for every length, and does not turn the keys that it
        has cached, so its outputs depend on how a sequence came to its length. Here they are a
        function of the sequence: when its set changes, it is computed again. One set per doubling
        makes that at most one more computation of every token on average, where one per length
        would be one of the whole sequence for every token; and the number of sets is bounded.
        """
        return min(self.original_max_position_embeddings << set_idx, self.stretched_len)


def read_rope(fields: Fields, head_dim: int, max_positions: int, original: int) -> RopeConfig:
    """Read the rope fields of config.json. ConfigError names a field that is wrong."""
    # transformers 4 wrote rope_scaling; when both are there, transformers 5 takes that one.
    name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    # Values inside the object win over those beside it.
    values = {
        key: fields.values[key]
        for key in ("rope_theta", "partial_rotary_factor")
        if key in fields.values
    } | (fields.object(name) or {})
    rope = Fields(values, fields.where, f"{name}." if fields.values.get(name) else "")
    theta = rope.number("rope_theta", 1.0, 1e15, 10000.0)
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor", 0.0, 1.0, 1.0))
    if rotary_dim < 2 or rotary_dim % 2:
        rope.fail(
            "partial_rotary_factor", f"a factor that leaves an even part of head_dim={head_dim}"
        )
    type_key = "rope_type" if values.get("rope_type") is not None else "type"
    rope_type = rope.choice(type_key, ROPE_TYPES, "default")
    if rope_type == "default":
        return RopeConfig("default", theta, rotary_dim)
    if rope_type == "linear":
        return RopeConfig(
            "linear",
            theta,
            rotary_dim,
            original_max_position_embeddings=max_positions,
            factor=_factor(rope, max_positions),
        )
    if rope_type == "dynamic":
        return _read_dynamic(rope, theta, rotary_dim, max_positions)
    has_lists = any(values.get(key) is not None for key in ("short_factor", "long_factor"))
    if rope_type == "yarn" and not has_lists:
        # Unlike LongRoPE's, the length inside the object counts: where transformers has YaRN, its
        # configs have no other place for it.
        if fields.values.get("original_max_position_embeddings") is None:
            original = rope.integer(
                "original_max_position_embeddings", 2, MAX_POSITIONS, max_positions
            )
        return _read_yarn(rope, theta, rotary_dim, max_positions, original)
    is_legacy = rope_type == "phi3_yarn"
    return _read_longrope(rope, theta, rotary_dim, max_positions / original, original, is_legacy)


def _factor(rope: Fields, original: int, default: float | None = None) -> float:
    """How far the original length is stretched: 1 to what makes MAX_POSITIONS of it."""
    high = MAX_POSITIONS / original
    factor = rope.optional_number("factor", 0.0, high)
    if factor is None:
        factor = default
    if factor is None or factor < 1:
        rope.fail("factor", f"a number from 1 to {high:g}")
    return factor


def _read_dynamic(rope: Fields, theta: float, rotary_dim: int, max_positions: int) -> RopeConfig:
    """Dynamic NTK; the original length is max_position_embeddings, as in transformers."""
    if rotary_dim < 4:
        rope.fail("partial_rotary_factor", "a factor that leaves 4 dims or more for dynamic NTK")
    factor = _factor(rope, max_positions)
    num_doublings = ((int(max_positions * factor) - 1) // max_positions).bit_length()
    return RopeConfig(
        "dynamic",
        theta,
        rotary_dim,
        attention_factors=(1.0,) * (1 + num_doublings),
        original_max_position_embeddings=max_positions,
        factor=factor,
    )


def _read_yarn(
    rope: Fields, theta: float, rotary_dim: int, max_positions: int, original: int
) -> RopeConfig:
    """YaRN (Peng et al. 2023), with the options of `_compute_yarn_parameters` in transformers.

    Attention factor m(1) = 0.1 ln(factor) + 1, or m(mscale) / m(mscale_all_dim) if both are given,
    where m(x) = 0.1 x ln(factor) + 1.
    """
    # Zero means "not given" there.
    given = {key: None if _is_zero(value) else value for key, value in rope.values.items()}
    rope = Fields(given, rope.where, rope.prefix)
    factor = _factor(rope, original, max_positions / original)
    beta_fast = rope.number("beta_fast", LEAST, 1e6, 32.0)
    beta_slow = rope.number("beta_slow", LEAST, 1e6, 1.0)
    if beta_slow > beta_fast:
        expected = f"at most beta_fast={beta_fast:g}"
        Fields({"beta_slow": beta_slow}, rope.where, rope.prefix).fail("beta_slow", expected)
    mscale = rope.optional_number("mscale", 0.0, 1e3)
    mscale_all_dim = rope.optional_number("mscale_all_dim", 0.0, 1e3)
    default = _mscale(factor)
    if mscale is not None and mscale_all_dim is not None:
        default = _mscale(factor, mscale) / _mscale(factor, mscale_all_dim)
    return RopeConfig(
        "yarn",
        theta,
        rotary_dim,
        attention_factors=(rope.number("attention_factor", 0.0, 1e3, default),),
        original_max_position_embeddings=original,
        factor=factor,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate=rope.flag("truncate", True),
    )


def _read_longrope(
    rope: Fields, theta: float, rotary_dim: int, ratio: float, original: int, is_legacy: bool
) -> RopeConfig:
    """LongRoPE, both sets with the attention factor of s = factor or else max / original.

    is_legacy: that is 0.1 ln s + 1, as in Microsoft's first code for checkpoints of type "yarn"
    with factor lists. transformers takes `longrope_attention_factor` for those too, and so does
    "yarn" here; who has such a checkpoint and wants the factor it was made with writes "phi3_yarn"
    for the type in config.json.
    """
    short_factor = rope.numbers("short_factor", rotary_dim // 2, LEAST, 1e6)
    long_factor = rope.numbers("long_factor", rotary_dim // 2, LEAST, 1e6)
    scale = rope.number("factor", 0.0, 1e6, ratio)
    default = _mscale(scale) if is_legacy else longrope_attention_factor(scale, original)
    attention_factor = rope.number("attention_factor", 0.0, 1e3, default)
    return RopeConfig(
        "longrope",
        theta,
        rotary_dim,
        attention_factors=(attention_factor, attention_factor),
        short_factor=short_factor,
        long_factor=long_factor,
        original_max_position_embeddings=original,
    )


def longrope_attention_factor(scale: float, original: int) -> float:
    """sqrt(1 + ln s / ln original), and 1 where s <= 1.

    scale (s): the longest sequence over the original one. LongRoPE, Ding et al. 2024;
    `_compute_longrope_parameters` in transformers.
    """
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _mscale(scale: float, weight: float = 1.0) -> float:
    """YaRN's factor of cos and sin, 1 where nothing is stretched."""
    return 0.1 * weight * math.log(scale) + 1.0 if scale > 1 else 1.0


def _is_zero(value: object) -> bool:
    return type(value) in (int, float) and value == 0
