"""The rotary embedding's settings, in either dialect of config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from phi3svc.config.json_file import Fields


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding.

    rotary_dim (R): how many leading dims of a head rotate, even. attention_factor: what cos and sin
    are multiplied by, for both factor sets. short_factor, long_factor: R/2 divisors of the inverse
    frequencies each, empty unless rope_type is "longrope".
    """

    rope_type: Literal["default", "longrope"]
    theta: float
    rotary_dim: int
    attention_factor: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


def read_rope(fields: Fields, head_dim: int, max_positions: int, original: int) -> RopeConfig:
    """Read the rope fields of config.json. ConfigError names a field that is wrong.

    Attention factor a = sqrt(1 + ln s / ln original) with s = factor or max / original, and 1
    where s <= 1 (LongRoPE, Ding et al. 2024; `_compute_longrope_parameters` in transformers).
    """
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
    rope_type = rope.choice(type_key, ("default", "longrope", "su", "yarn"), "default")
    if rope_type == "default":
        return RopeConfig("default", theta, rotary_dim)
    # "su" is LongRoPE's first name. So is "yarn" with factor lists, in early Phi-3 checkpoints;
    # transformers reads both so. True YaRN has no such lists and fails on them here.
    short_factor = rope.numbers("short_factor", rotary_dim // 2, 0.0, 1e6)
    long_factor = rope.numbers("long_factor", rotary_dim // 2, 0.0, 1e6)
    factor = rope.number("factor", 0.0, 1e6, max_positions / original)
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    attention_factor = rope.number("attention_factor", 0.0, 1e3, default)
    return RopeConfig("longrope", theta, rotary_dim, attention_factor, short_factor, long_factor)
