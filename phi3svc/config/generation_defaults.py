"""Sampling settings that a checkpoint recommends: its generation_config.json."""

from __future__ import annotations

from dataclasses import dataclass

from phi3svc.config.json_file import Fields


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling settings of generation_config.json; transformers' own defaults where it has none.

    repetition_penalty counts even without do_sample, the others only with it.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0


def read_generation_defaults(fields: Fields) -> GenerationDefaults:
    """ConfigError names a setting that is out of range."""
    default = GenerationDefaults()
    temperature = fields.values.get("temperature")
    min_p = fields.values.get("min_p")
    return GenerationDefaults(
        do_sample=fields.flag("do_sample", default.do_sample),
        # Zero means greedy to some writers; any other number must be a usable temperature.
        temperature=0.0
        if temperature == 0 and not isinstance(temperature, bool)
        else fields.number("temperature", 0.0, 100.0, default.temperature),
        top_k=fields.integer("top_k", 0, 1 << 22, default.top_k),
        top_p=fields.number("top_p", 0.0, 1.0, default.top_p),
        # Numbers are above their lower bound, and zero is how writers turn this one off.
        min_p=0.0
        if min_p == 0 and not isinstance(min_p, bool)
        else fields.number("min_p", 0.0, 1.0, default.min_p),
        typical_p=fields.number("typical_p", 0.0, 1.0, default.typical_p),
        repetition_penalty=fields.number(
            "repetition_penalty", 0.01, 100.0, default.repetition_penalty
        ),
    )
