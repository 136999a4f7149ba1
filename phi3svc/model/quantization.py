"""Which weights keep more bits than was asked for: those that lose too much in fewer.

The measure is a row's RMS error over its mean |weight|. A single weight hardly moves the mean, so
where one sets the scale of its whole row, and leaves few steps to the others, this shows; over the
row's own norm, which such a weight makes large, it would not. Phi-3-mini has rows like that: six
weights of layers 2 and 4's down_proj, about a hundred times the rest (Yu et al. 2024,
arXiv 2411.07191), cost their rows 0.2 to 0.3, in 8 bits as well as in 4.
"""

from __future__ import annotations

from torch import Tensor

from phi3svc.config.quantization import FLOAT8, MAX_IN_FEATURES, Quantization
from phi3svc.model.heads import EMBEDDING, LM_HEAD, SCORE

POLICY_VERSION = 1
"""To be raised with every change of what is decided here: packed weights on a disk go by it."""

MAX_ROW_ERROR = {
    "int4-g32-min": 0.20,
    "int4-g32": 0.22,
    "int4-g128-min": 0.24,
    "int4-g128": 0.26,
    "int8": 0.14,
}
"""The worst row's error that is still accepted in a format.

In 4 bits, twice the 0.10 to 0.13 of normally distributed weights: a bit is lost. In 8 bits, where
those lose 0.01, that of a row with a weight of 50 deviations: the others, most of which lie within
three, are left with the 16 steps of 4 bits.
"""


def first_format(name: str, in_features: int, format: str) -> str:
    """The weight format to try first for the weight `name`, where the scheme is `format`.

    An error of the head goes straight into the logits: in 4 bits it more than doubles what
    quantizing adds to the embedded model's perplexity (tests/bench/results/quality.md), so it gets
    8 unless the scheme says otherwise. A classifier's few rows are left alone, as are rows too long
    for a sum in 32 bits.
    """
    if format == FLOAT8:
        # No row is lost to a single weight, as each has an exponent of its own.
        return "bfloat16" if name == SCORE else format
    quantization = Quantization.of(format)
    if quantization is None:
        return format
    if name == SCORE or in_features > MAX_IN_FEATURES:
        return "bfloat16"
    # The embedding is packed only where it is the head as well.
    return (quantization.head if name in (LM_HEAD, EMBEDDING) else quantization).format


def choose_format(format: str, row_errors: Tensor) -> str:
    """The format for a weight that in `format` has `row_errors`, float32 [n].

    That is `format`, or the next one in int4, int8, bfloat16 if a row loses more than
    `MAX_ROW_ERROR`, or is not finite.
    """
    if float(row_errors.max()) <= MAX_ROW_ERROR[format]:  # false of NaN
        return format
    return "bfloat16" if format == "int8" else "int8"
