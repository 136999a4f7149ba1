"""The table, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.peers.catalog import FORMAT_CLASSES
from tests.bench.peers.summary import LIMITS, RATES, Line, best_peer, ours, share

# Which peers design.md compares us with: for decoding one sequence those of as many bits or more;
# for the rest those of every format; bfloat16 with bfloat16.
RIVALS = {
    ("decode_1", "int8"): ("int8", "bfloat16"),
    ("decode_1", "bfloat16"): ("bfloat16",),
    ("prefill_512", "bfloat16"): ("bfloat16",),
    ("prefill_2048", "bfloat16"): ("bfloat16",),
}
TARGETS = {
    ("decode_1", "int4"): 1.10,
    ("decode_1", "int8"): 1.10,
    ("decode_1", "bfloat16"): 1.04,
    ("prefill_512", "int4"): 1.25,
    ("prefill_2048", "int4"): 1.25,
    ("prefill_512", "int8"): 1.25,
    ("prefill_2048", "int8"): 1.25,
    ("prefill_512", "bfloat16"): 1.05,
    ("prefill_2048", "bfloat16"): 1.05,
    ("decode_8", "int4"): 2.0,
    ("decode_16", "int4"): 2.0,
    ("decode_8", "int8"): 1.5,
    ("decode_16", "int8"): 1.5,
}
LIMIT_NAMES = {
    "read_gb_per_s": "reading {:.1f} GB/s",
    "vpdpbusd_gops": "vpdpbusd {:.0f} GOP/s",
    "vdpbf16ps_gflops": "vdpbf16ps {:.0f} GFLOP/s",
    "float32_fma_gflops": "float32 FMA {:.0f} GFLOP/s",
}


@dataclass(frozen=True)
class Setting:
    """What the figures were taken under. command: as it was typed."""

    date: str
    cpu: str
    system: str
    num_threads: int
    num_layers: int
    num_rounds: int
    command: str
    versions: Mapping[str, str]


def to_markdown(lines: Sequence[Line], setting: Setting, limits: Mapping[str, float | None]) -> str:
    parts = [
        "# phi3svc beside other engines on one CPU",
        _introduction(setting, limits),
        "![Tokens per second](peers.svg)",
        _table(lines, setting, limits),
        _how(setting),
        "## Against the best of the others",
        _targets(lines),
        "## Flags",
        _flags(lines),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in setting.versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(setting: Setting, limits: Mapping[str, float | None]) -> str:
    peaks = [
        LIMIT_NAMES[name].format(value) for name in LIMITS if (value := limits[name]) is not None
    ]
    rounds = "one round" if setting.num_rounds == 1 else f"{setting.num_rounds} rounds"
    return (
        f"`{setting.command}`, {setting.date}, {setting.cpu}, {setting.num_threads} threads, "
        f"{setting.system}. The shape of Phi-3-mini with random weights, {setting.num_layers} "
        f"layers. Medians of {rounds} that alternate between the engines. The machine's limits, "
        f"measured in every round: {', '.join(peaks)}."
    )


def _table(lines: Sequence[Line], setting: Setting, limits: Mapping[str, float | None]) -> str:
    header = ["engine", "format", "bits", *RATES.values(), "memory, GB", "start, s"]
    rows = [header, ["---"] * len(header)]
    for kind in FORMAT_CLASSES:
        us = ours(lines, kind)
        for line in (x for x in lines if x.entry.kind == kind):
            entry = line.entry
            name = f"**{entry.engine}**" if entry.is_ours else entry.engine
            row = [name, entry.format, f"{entry.bits:g}"]
            if not line.figures:
                row += [f"failed: {line.error}", *[""] * (len(header) - 4)]
            else:
                row += [_cell(line, us, rate, setting, limits) for rate in RATES]
                total, anonymous = (line.figures[n] / 1e9 for n in ("peak_rss", "peak_anonymous"))
                row += [f"{total:.2f} ({anonymous:.2f})", f"{line.figures['start_s']:.1f}"]
            rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(
    line: Line,
    us: Line | None,
    rate: str,
    setting: Setting,
    limits: Mapping[str, float | None],
) -> str:
    value = line.figures[rate]
    cell = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    if us is not None and us is not line:
        cell += f" · {value / us.figures[rate]:.2f} ×"
    part = share(line, rate, setting.num_layers, limits)
    return f"{cell} · {part:.0%}" if part else cell


def _how(setting: Setting) -> str:
    return (
        "Tokens per second; behind it the ratio to ours of the same class of formats, and the "
        "part of the machine's limit: for prompts 2 operations per weight of the layers, of the "
        "instruction peak (vpdpbusd for int8 and int4, vdpbf16ps for bfloat16, whatever the "
        "engine computes in); for decoding the bytes of weights, keys and values that a step "
        "reads, of the bandwidth. A prompt's time ends with its first token. One sequence "
        "decodes behind 512 tokens, 8 and 16 behind 64 each; the rate is that of the time in "
        "which all of them run. Memory is the most that was resident (VmHWM), weights mapped "
        "from files included, and in brackets the most that was anonymous. The start is from "
        "the call that loads, files in the page cache and our packed weights made, to the first "
        "token of a prompt of 16; importing the engine's package is not in it. Every engine "
        "runs in a process of its own; all are greedy and see the same token ids."
    )


def _targets(lines: Sequence[Line]) -> str:
    rows = [["what", "ours", "best of the others", "ratio", "target"], ["---"] * 5]
    for rate, title in RATES.items():
        for kind in FORMAT_CLASSES:
            us, target = ours(lines, kind), TARGETS.get((rate, kind))
            rivals = RIVALS.get((rate, kind), FORMAT_CLASSES)
            best = best_peer(lines, rate, rivals)
            if us is None or best is None or target is None:
                continue
            mine, theirs = us.figures[rate], best.figures[rate]
            ratio = f"{mine / theirs:.2f} ×"
            rows.append(
                [
                    f"{title}, {kind}",
                    f"{mine:.1f}",
                    f"{theirs:.1f} ({best.entry.engine} {best.entry.format})",
                    f"**{ratio}**" if mine >= target * theirs else ratio,
                    f"{target:.2f} ×",
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _flags(lines: Sequence[Line]) -> str:
    found = {line.entry.engine: line.flags for line in lines if line.flags}
    return "\n".join(f"- {engine}: {flags}." for engine, flags in found.items())
