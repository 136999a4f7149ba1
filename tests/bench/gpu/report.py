"""One table and one JSON of what the stages found: `python -m tests.bench.gpu.report DIR OUT`.

DIR has the JSON files of the stages; OUT gets gpu.md and gpu.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.gpu.shapes import SHAPES

Found = dict[str, Any]

_WEIGHT_BYTES = {"bfloat16": 2, "fp8": 1}


def to_markdown(machine: Found, ops: list[Found], runs: list[Found]) -> str:
    lines = ["# On a GPU", "", f"{machine['gpu']}, {machine['date']}. {machine['versions']}.", ""]
    for found in ops:
        limits = found["limits"]
        lines += [
            f"## Ops of Phi-3-{found['shape']}",
            "",
            f"Measured limits: reading {limits['read_bandwidth'] / 1e9:.0f} GB/s, copying "
            f"{limits['copy_bandwidth'] / 1e9:.0f} GB/s, bfloat16 products "
            f"{limits['matrix_rate'] / 1e12:.0f} TFLOP/s.",
            "",
            "| op | of | time, us | share of the limit | limit |",
            "| --- | --- | ---: | ---: | --- |",
        ]
        lines += [
            f"| {row['op']} | {row['setting']} | {row['seconds'] * 1e6:.1f} "
            f"| {row['fraction']:.1%} | {row['limit']} |"
            for row in found["rows"]
        ]
        lines.append("")
    limits = next((found["limits"] for found in ops), None)
    for shape in dict.fromkeys(run["shape"] for run in runs):
        lines += _generation(shape, [run for run in runs if run["shape"] == shape], limits)
    return "\n".join(lines).rstrip() + "\n"


def _generation(shape: str, runs: list[Found], limits: Found | None) -> list[str]:
    sizes = f"prompts of {runs[0]['prompt_len']} tokens, {runs[0]['num_new']} new ones each"
    lines = [f"## Phi-3-{shape}, tokens per second", "", f"Random weights, {sizes}.", ""]
    batches = list(dict.fromkeys(row["batch"] for run in runs for row in run["rows"]))
    head = [f"{kind}, {batch}" for kind in ("prefill", "decode") for batch in batches]
    lines += [f"| engine | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    for run in runs:
        rows = {row["batch"]: row for row in run["rows"]}
        cells = [
            _cell(rows.get(batch, {}), kind) for kind in ("prefill", "decode") for batch in batches
        ]
        lines.append(f"| {run['engine']}, {run['format']} | {' | '.join(cells)} |")
    if limits is not None:
        lines += ["", *(_shares(run, limits) for run in runs)]
    return [*lines, ""]


def _shares(run: Found, limits: Found) -> str:
    """What of the device the weights alone make use of; attention comes on top."""
    shape = SHAPES[run["shape"]]
    one = next((row["decode"] for row in run["rows"] if row.get("batch") == 1), 0.0)
    read = one * shape.step_weights * _WEIGHT_BYTES[run["format"]] / limits["read_bandwidth"]
    prefill = max((row.get("prefill", 0.0) for row in run["rows"]), default=0.0)
    products = 2 * prefill * shape.num_layers * shape.layer_weights / limits["matrix_rate"]
    return (
        f"- {run['engine']}, {run['format']}: decoding one sequence reads weights at {read:.1%} of "
        f"the bandwidth; the fastest prefill multiplies with them at {products:.1%} of the rate."
    )


def _cell(row: Found, kind: str) -> str:
    return f"{row[kind]:,.0f}" if kind in row else str(row.get("error", "-"))


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    found = {path.stem: json.loads(path.read_text()) for path in sorted(source.glob("*.json"))}
    machine = found.pop("machine")
    ops = [part for name, part in found.items() if name.startswith("ops-")]
    runs = [part for name, part in found.items() if name.startswith("run-")]
    text = to_markdown(machine, ops, runs)
    target.mkdir(parents=True, exist_ok=True)
    (target / "gpu.md").write_text(text)
    (target / "gpu.json").write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
