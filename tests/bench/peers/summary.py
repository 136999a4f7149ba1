"""Medians over the rounds, and what they are fractions of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.peers import checkpoint
from tests.bench.peers.catalog import Entry
from tests.bench.peers.rounds import Record
from tests.bench.peers.workload import PROMPT_LEN, SHORT_PROMPT_LEN

RATES = {
    "prefill_512": "prefill 512",
    "prefill_2048": "prefill 2048",
    "decode_1": "decode, 1 sequence",
    "decode_8": "decode, 8",
    "decode_16": "decode, 16",
}
LIMITS = ("read_gb_per_s", "vpdpbusd_gops", "vdpbf16ps_gflops", "float32_fma_gflops")
PEAK = {"bfloat16": "vdpbf16ps_gflops", "int8": "vpdpbusd_gops", "int4": "vpdpbusd_gops"}


@dataclass(frozen=True)
class Line:
    """An entry's medians; `figures` is empty if it failed in every round, and `error` says how."""

    entry: Entry
    figures: Mapping[str, float]
    flags: str = ""
    error: str = ""


def limits(records: Sequence[Record]) -> dict[str, float | None]:
    """The machine's, as medians; None for an instruction it lacks."""
    probes = [r for r in records if r["key"] == "probe"]
    found: dict[str, float | None] = {}
    for name in LIMITS:
        values = [r[name] for r in probes if r[name] is not None]
        found[name] = statistics.median(values) if values else None
    return found


def lines(entries: Sequence[Entry], records: Sequence[Record]) -> list[Line]:
    found = []
    for entry in entries:
        mine = [r for r in records if r["key"] == entry.key]
        good = [r for r in mine if "error" not in r]
        errors = [r["error"] for r in mine if "error" in r]
        error = errors[0] if errors else ("" if good else "did not run")
        names = (*RATES, "start_s", "peak_rss", "peak_anonymous") if good else ()
        figures = {name: statistics.median(r[name] for r in good) for name in names}
        found.append(Line(entry, figures, good[0]["flags"] if good else "", error))
    return found


def share(line: Line, rate: str, num_layers: int, found: Mapping[str, float | None]) -> float:
    """The part of what the machine could do at most; 0 if that is unknown.

    Prefill: 2 operations per weight of the layers and token, of the instruction peak of the
    format; attention and the head, of which a prompt needs one row, are not counted. Decode: the
    bytes of a step (weights as stored, and the keys and values read) of the read bandwidth; for
    several sequences, which share the weights, likewise.
    """
    entry, tokens_per_s = line.entry, line.figures[rate]
    layers = checkpoint.num_streamed_weights(num_layers) - checkpoint.VOCAB * checkpoint.HIDDEN
    if rate.startswith("prefill"):
        peak = found[PEAK[entry.kind]]
        return 2e-9 * layers * tokens_per_s / peak if peak else 0.0
    num_sequences = int(rate.removeprefix("decode_"))
    context = PROMPT_LEN if num_sequences == 1 else SHORT_PROMPT_LEN
    head_bits = entry.bits if entry.head_bits is None else entry.head_bits
    num_bytes = (layers * entry.bits + checkpoint.VOCAB * checkpoint.HIDDEN * head_bits) / 8
    num_bytes += num_sequences * context * 2 * num_layers * checkpoint.HIDDEN * entry.kv_bytes
    bandwidth = found["read_gb_per_s"]
    return 1e-9 * num_bytes * tokens_per_s / num_sequences / bandwidth if bandwidth else 0.0


def ours(all_lines: Sequence[Line], kind: str) -> Line | None:
    """What a line of that kind is compared with: the first of ours, the default of its kind."""
    found = (x for x in all_lines if x.entry.is_ours and x.entry.kind == kind and x.figures)
    return next(found, None)


def best_peer(all_lines: Sequence[Line], rate: str, kinds: Sequence[str]) -> Line | None:
    """The fastest engine besides us among those kinds."""
    peers = [x for x in all_lines if not x.entry.is_ours and x.figures and x.entry.kind in kinds]
    return max(peers, key=lambda line: line.figures[rate], default=None)
