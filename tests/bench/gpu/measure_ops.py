"""Each op beside what the device can do: `python -m tests.bench.gpu.measure_ops --out FILE.json`.

Of an op that has to read more than it computes, the fraction of the read bandwidth; of the others,
of the matrix rate; both measured in the same run. Every figure is a median.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.gpu import limits
from tests.bench.gpu.op_cases import (
    OpCase,
    attention_case,
    gemm_cases,
    norm_case,
    sample_case,
)
from tests.bench.gpu.shapes import SHAPES, Shape
from tests.bench.gpu.timing import median_seconds

DECODE_BATCHES = (1, 8, 64, 256)
PROMPT_LENS = (512, 4096)


def cases(shape: Shape, device: torch.device, is_quick: bool) -> Iterator[tuple[str, OpCase]]:
    """(what is measured, the case), built one at a time: some take gigabytes."""
    batches = DECODE_BATCHES[:2] if is_quick else DECODE_BATCHES
    prompts = (48,) if is_quick else PROMPT_LENS
    context = 300 if is_quick else 1024
    for format in ("bfloat16", "fp8"):
        for num_tokens in (*batches, *prompts):
            for case in gemm_cases(shape, num_tokens, format, device):
                yield f"{format}, {num_tokens} tokens", case
    for kv_dtype in (torch.bfloat16, torch.float8_e4m3fn):
        name = str(kv_dtype).removeprefix("torch.")
        for batch in batches:
            yield (
                f"{name} pages, {batch} sequences of {context}",
                attention_case(shape, "attention decode", batch, 1, context, kv_dtype, device),
            )
        for length in prompts:
            yield (
                f"{name} pages, a prompt of {length}",
                attention_case(shape, "attention prefill", 1, length, length, kv_dtype, device),
            )
    for batch in batches:
        yield f"{batch} rows", norm_case(shape, batch, device)
        for is_greedy in (True, False):
            yield f"{batch} rows", sample_case(shape, batch, is_greedy, device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    device, is_quick = torch.device(args.device), args.shape == "tiny"
    size = 1 << 20 if is_quick else 4 << 30
    found = {
        "read_bandwidth": limits.read_bandwidth(device, size),
        "copy_bandwidth": limits.copy_bandwidth(device, size // 2),
        "matrix_rate": limits.matrix_rate(device, 128 if is_quick else 8192),
    }
    print(
        f"read {found['read_bandwidth'] / 1e9:.0f} GB/s, copy {found['copy_bandwidth'] / 1e9:.0f} "
        f"GB/s, matrix products {found['matrix_rate'] / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    rows = []
    for setting, case in cases(SHAPES[args.shape], device, is_quick):
        seconds = median_seconds(case.program.run, device, 0.3) / case.num_calls
        reading = case.num_bytes / found["read_bandwidth"]
        computing = case.num_operations / found["matrix_rate"]
        limit = "bandwidth" if reading >= computing else "matrix rate"
        fraction = max(reading, computing) / seconds
        rows.append(
            {"op": case.name, "setting": setting, "seconds": seconds, "limit": limit,
             "fraction": fraction}
        )  # fmt: skip
        print(
            f"{case.name:20} {setting:42} {seconds * 1e6:10.1f} us  {fraction:6.1%} of {limit}",
            flush=True,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"shape": args.shape, "limits": found, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
