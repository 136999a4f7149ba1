"""One stream of the embedded model against transformers: `python -m tests.bench.embedded`.

Greedy answers to random prompts, one after the other, through `phi3svc bench --mode engine` (the
engine in its own process, as in a server) as it is, and without guessing ahead; and through
`generate` of transformers with the same checkpoint, in its dtype and in float32, whichever suits
the CPU. Each run is a process of its own, the rounds of all alternate, and figures are medians.
Prints the table kept in tests/bench/results/embedded.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phi3svc.config.checkpoint import resolve_source

NUM_REQUESTS, PROMPT_LEN, NUM_NEW = 20, 16, 100
"""Together below the length at which LongRoPE changes its factors, which transformers would answer
by computing all keys again."""


def ours(num_threads: int, settings: str) -> float:
    """Tokens per second."""
    with tempfile.TemporaryDirectory() as folder:
        config, result = Path(folder, "config.toml"), Path(folder, "result.json")
        config.write_text(settings)
        load = {
            "requests": NUM_REQUESTS,
            "concurrency": 1,
            "prompt-tokens": PROMPT_LEN,
            "max-new-tokens": NUM_NEW,
            "threads": num_threads,
        }
        flags = [f"--{name}={value}" for name, value in load.items()]
        command = [sys.executable, "-m", "phi3svc", "bench", "--mode=engine", "--model=demo"]
        command += [*flags, "--ignore-eos", f"--config={config}", f"--json={result}"]
        subprocess.run(command, check=True, capture_output=True)
        return float(json.loads(result.read_text())["results"]["tokens_per_s"])


def transformers(num_threads: int, dtype: str) -> float:
    """Tokens per second, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.embedded", "--transformers", dtype]
    command += ["--threads", str(num_threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def run_transformers(num_threads: int, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        resolve_source("demo").path, dtype=getattr(torch, dtype)
    )
    model.generation_config.eos_token_id = None

    def answer() -> None:
        ids = torch.randint(1, 1000, (1, PROMPT_LEN))
        mask = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=mask, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0
        )

    answer()
    num_answers = NUM_REQUESTS // 4
    start = time.perf_counter()
    for _ in range(num_answers):
        answer()
    print(num_answers * NUM_NEW / (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--transformers", metavar="DTYPE", help="run only that, once")
    args = parser.parse_args()
    if args.transformers:
        run_transformers(args.threads[0], args.transformers)
        return
    kinds = {
        "phi3svc": lambda threads: ours(threads, ""),
        "without guessing": lambda threads: ours(threads, "[engine]\nmax_draft_tokens = 0\n"),
        "transformers, bfloat16": lambda threads: transformers(threads, "bfloat16"),
        "transformers, float32": lambda threads: transformers(threads, "float32"),
    }
    print(f"| threads | {' | '.join(kinds)} | to the better transformers | without guessing |")
    print(f"| --- |{' --- |' * len(kinds)} --- | --- |")
    for num_threads in args.threads:
        rounds = [[run(num_threads) for run in kinds.values()] for _ in range(args.rounds)]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratios = [
            statistics.median(figures[which] / max(figures[2:]) for figures in rounds)
            for which in (0, 1)
        ]
        cells = [f"{median:,.0f}" for median in medians] + [f"{ratio:.1f}" for ratio in ratios]
        print(f"| {num_threads} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
