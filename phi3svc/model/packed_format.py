"""The file of packed weights: what the cache keeps, and what `phi3svc quantize` writes.

It is a safetensors file. Its tensors have the names of today's transformers; linear weights lie
there as `ops.PackedLinear` holds them, integer ones as U8, all others plain. Every tensor begins at
a multiple of 64 bytes, after tensors called `padding.N` where need be. `__metadata__` says

    phi3svc.version   of this description
    phi3svc.layout    `ops.PACKED_LAYOUT_VERSION`
    phi3svc.format    what linear weights were packed in, unless they had to keep more bits
    phi3svc.linears   JSON: name → {"format", "out_features", "in_features", "is_gate_up"}

Such a file is good on every machine, and is used as it lies there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from phi3svc import ops
from phi3svc.config.json_file import Fields, parse_json_object
from phi3svc.config.quantization import FLOAT8
from phi3svc.errors import ConfigError

VERSION = "1"
ALIGNMENT = 64
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}

_FORMATS = tuple(name for name in ops.WEIGHT_FORMATS if name != FLOAT8)  # the file is a CPU's
_MAX_FEATURES = 1 << 24


@dataclass(frozen=True)
class LinearEntry:
    """A linear weight of the file; what it is in a checkpoint is [out_features, in_features]."""

    format: str
    out_features: int
    in_features: int
    is_gate_up: bool

    def packed_shape(self) -> tuple[tuple[int, ...], torch.dtype]:
        """What its tensor in the file must be."""
        return ops.packed_shape(self.out_features, self.in_features, self.format, self.is_gate_up)


def write_metadata(format: str, linears: Mapping[str, LinearEntry]) -> dict[str, str]:
    """What `__metadata__` says."""
    entries = {name: asdict(entry) for name, entry in linears.items()}
    return {
        "phi3svc.version": VERSION,
        "phi3svc.layout": str(ops.PACKED_LAYOUT_VERSION),
        "phi3svc.format": format,
        "phi3svc.linears": json.dumps(entries, separators=(",", ":")),
    }


def read_metadata(
    metadata: Mapping[str, object], format: str, where: str
) -> dict[str, LinearEntry]:
    """The linear weights by name. ConfigError unless it is a packed file of this format."""
    for key, expected, otherwise in (
        ("version", VERSION, "this version of phi3svc reads"),
        ("layout", str(ops.PACKED_LAYOUT_VERSION), "this version of phi3svc reads"),
        ("format", format, "config.json says"),
    ):
        found = metadata.get(f"phi3svc.{key}")
        if found is None:
            raise ConfigError(f"{where}: has no phi3svc.{key}; not a file of packed weights")
        if found != expected:
            raise ConfigError(f"{where}: is of {key} {str(found)[:40]}; {otherwise} {expected}")
    text = metadata.get("phi3svc.linears")
    if not isinstance(text, str):
        raise ConfigError(f"{where}: has no phi3svc.linears; not a file of packed weights")
    entries = parse_json_object(text.encode(), f"{where}: phi3svc.linears")
    return {name: _read_entry(name, entry, where) for name, entry in entries.items()}


def _read_entry(name: str, value: object, where: str) -> LinearEntry:
    where = f"{where}: phi3svc.linears: {name[:200]!r}"
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: has no description")
    fields = Fields(value, where)
    return LinearEntry(
        fields.choice("format", _FORMATS),
        fields.integer("out_features", 1, _MAX_FEATURES),
        fields.integer("in_features", 1, _MAX_FEATURES),
        fields.flag("is_gate_up", False),
    )
