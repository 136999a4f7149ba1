"""The engine on a GPU: `python -m tests.bench.gpu.generate --shape mini --out FILE.json`.

Random weights of the model's shape; prefill and decode at several batch sizes. Batches that do not
fit in memory are a line that says so.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import torch

from phi3svc import ops
from tests.bench.gpu.generation import BATCHES, NUM_NEW, PROMPT_LEN, timed_generation
from tests.bench.gpu.model import make_generate, random_network
from tests.bench.gpu.shapes import SHAPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--format", choices=("bfloat16", "fp8"), default="bfloat16")
    parser.add_argument("--policy", choices=("deterministic", "free"), default="deterministic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ops.set_kernel_policy(args.policy)
    shape, device = SHAPES[args.shape], torch.device(args.device)
    network = random_network(shape, args.format, device)
    engine = "phi3svc" if args.policy == "deterministic" else "phi3svc, any kernel"
    setting = {"engine": engine, "shape": args.shape, "format": args.format}
    setting |= {"prompt_len": PROMPT_LEN, "num_new": NUM_NEW}
    rows = []
    for batch in args.batches:
        try:
            timed = timed_generation(make_generate(network, batch), shape, batch, device)
            rows.append({"batch": batch, **timed._asdict()})
        except torch.OutOfMemoryError:
            rows.append({"batch": batch, "error": "out of memory"})
        gc.collect()  # of the engine of this batch, whose pages take most of the memory
        print(rows[-1], flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**setting, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
