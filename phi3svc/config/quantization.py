"""How weights are quantized: the schemes there are, and the one that a config.json names.

In config.json a quantized checkpoint of this project says, as those of other methods do,

    "quantization_config": {
        "quant_method": "phi3svc", "bits": 4, "group_size": 32, "symmetric": false, "head_bits": 8
    }

or {"quant_method": "phi3svc", "bits": 8}. Which format each weight has in the end is in its file,
as sensitive ones keep more bits: `model/quantization.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from phi3svc.config.json_file import Fields
from phi3svc.errors import ConfigError

QUANT_METHOD = "phi3svc"
GROUP_SIZES = (32, 128)
INTEGER_DTYPES = ("int8", "int4")
"""As `--dtype` has them."""

FLOAT8 = "fp8"
"""The dtype, and format, of linear weights in 8 bits with an exponent, for CUDA devices."""

MAX_IN_FEATURES = 1 << 16
"""Of a weight in an integer format: longer rows make sums that 32 bits do not hold."""


@dataclass(frozen=True)
class Quantization:
    """What linear weights are rounded to; everything else stays as it is.

    bits: 8, a scale per row; or 4, a scale per row and a small integer one per group of
    `group_size` weights along the input. is_symmetric: without it, a group of 4 bits has a zero of
    its own, so that its range need not be centred. head_bits: of the language-model head beside 4
    bits, 8 or 4. 8 bits know none of these.
    """

    bits: int
    group_size: int = 32
    is_symmetric: bool = False
    head_bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ConfigError(f"bits={self.bits}: must be 4 or 8")
        if self.group_size not in GROUP_SIZES:
            sizes = " or ".join(map(str, GROUP_SIZES))
            raise ConfigError(f"group_size={self.group_size}: must be {sizes}")
        if self.head_bits not in (4, 8):
            raise ConfigError(f"head_bits={self.head_bits}: must be 4 or 8")
        of_4_bits = (self.group_size, self.is_symmetric, self.head_bits)
        if self.bits == 8 and of_4_bits != (32, False, 8):
            raise ConfigError(
                "bits=8: has neither group_size nor symmetric nor head_bits, which are of 4 bits"
            )

    @classmethod
    def of(cls, name: str) -> Quantization | None:
        """The scheme that `name` stands for: "int8", "int4" or another's `name`.

        None for other names.
        """
        return _BY_NAME.get(name)

    @property
    def dtype(self) -> str:
        """As `--dtype` has it."""
        return f"int{self.bits}"

    @property
    def name(self) -> str:
        """Its format, like "int4-g128-min", and "-head4" behind it for a head in 4 bits as well."""
        return self.format + ("-head4" if self.head_bits == 4 else "")

    @property
    def format(self) -> str:
        """The weight format of `ops.pack_linear`."""
        if self.bits == 8:
            return "int8"
        return f"int4-g{self.group_size}" + ("" if self.is_symmetric else "-min")

    @property
    def head(self) -> Quantization:
        """The scheme of the language-model head."""
        return self if self.head_bits == 4 else Quantization(8)

    def packed_bytes(self, num_rows: int, in_features: int, is_gate_up: bool = False) -> int:
        """What a weight takes in this format: 16 rows at a time, as csrc/core/weight_format.h.

        Or in bfloat16, if its rows are too long. is_gate_up: of two halves, each padded by itself.
        """
        if is_gate_up:
            return 2 * self.packed_bytes(num_rows // 2, in_features)
        if in_features > MAX_IN_FEATURES:
            return 2 * _rounded_up(num_rows, 16) * _rounded_up(in_features, 2)
        if self.bits == 8:
            num_bytes = 16 * _rounded_up(in_features, 32)
        else:
            per_block = {(32, False): 64, (32, True): 32}.get(
                (self.group_size, self.is_symmetric), 16
            )
            num_blocks = -(-in_features // 128)
            num_bytes = _rounded_up(num_blocks * per_block, 64) + num_blocks * 16 * 64
        return -(-num_rows // 16) * (64 + num_bytes)

    def to_json(self) -> dict[str, object]:
        """The quantization_config of a config.json."""
        record: dict[str, object] = {"quant_method": QUANT_METHOD, "bits": self.bits}
        if self.bits == 4:
            record |= {
                "group_size": self.group_size,
                "symmetric": self.is_symmetric,
                "head_bits": self.head_bits,
            }
        return record


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


_BY_NAME = {"int8": Quantization(8), "int4": Quantization(4)} | {
    scheme.name: scheme
    for group_size in GROUP_SIZES
    for is_symmetric in (False, True)
    for head_bits in (8, 4)
    for scheme in (Quantization(4, group_size, is_symmetric, head_bits),)
}


SCHEME_NAMES = tuple(_BY_NAME)
"""What `Quantization.of` knows."""


def dtype_of_scheme(name: str) -> str:
    """As `--dtype` has it in short: "int4" for "int4-g32-min"."""
    quantization = Quantization.of(name)
    return name if quantization is None else quantization.dtype


def read_quantization(fields: Fields) -> Quantization | None:
    """What a config.json's quantization_config says, None where it has none.

    ConfigError for a method of others, naming it.
    """
    values = fields.object("quantization_config")
    if values is None:
        return None
    own = Fields(values, fields.where, "quantization_config.")
    if values.get("quant_method") != QUANT_METHOD:
        own.fail("quant_method", f"{QUANT_METHOD}; what other methods quantized is not loaded")
    bits = own.integer("bits", 4, 8)
    if bits == 8:
        return Quantization(8)
    if bits != 4:
        own.fail("bits", "4 or 8")
    group_size = own.integer("group_size", 32, 128)
    if group_size not in GROUP_SIZES:
        own.fail("group_size", " or ".join(map(str, GROUP_SIZES)))
    head_bits = own.integer("head_bits", 4, 8, default=8)
    if head_bits not in (4, 8):
        own.fail("head_bits", "4 or 8")
    return Quantization(4, group_size, own.flag("symmetric", False), head_bits)


def check_dtype(dtype: str, stored: Quantization, where: str) -> None:
    """Raises ConfigError if `dtype` asks of a quantized checkpoint what it does not hold."""
    if dtype not in ("auto", stored.dtype, stored.name):
        raise ConfigError(
            f"{where}: dtype={dtype!r}: the checkpoint is quantized to {stored.name}; use auto, "
            "or the checkpoint that it was made from"
        )
