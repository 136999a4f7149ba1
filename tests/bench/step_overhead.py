"""How much of a decode step is Python: `.venv/bin/python -m tests.bench.step_overhead`.

Steps the engine's core on the embedded demo model, at each batch size, with sampled requests and no
guesses: with steps queued behind one another, and without. Prints microseconds per step, those of
them in which the extension was at work, and the share that it was not, which is Python and the
waking of threads. Rounds of both kinds alternate; each figure is that of the fastest round, by its
whole time over its steps, as other programs of the machine only ever add time. `--top` profiles the
functions behind the rest at the last batch size. Prints the table kept in
tests/bench/results/step_overhead.md.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phi3svc
from phi3svc import _core, ops
from phi3svc.config.engine import EngineConfig
from phi3svc.engine import core as core_module
from phi3svc.engine.core import EngineCore
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network

_DEMO = Path(phi3svc.__file__).parent / "embedded" / "demo"
_PROMPT_LEN = 16
_NUM_STEPS = 90  # together below the length at which LongRoPE changes its factors


class ExtensionClock:
    """Seconds during which the extension worked: in calls, or in runs that have been waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("embedding", "rms_norm", "qkv_rope", "attention", "linear", "mlp", "lm_head"):
            setattr(_core, name, self._timed(getattr(_core, name)))
        _core.sample = self._timed(_core.sample)
        _core.Program.run = self._timed(_core.Program.run)
        wait = _core.Run.wait

        def timed_wait(run: ops.Run) -> bool:
            is_complete = wait(run)
            self.seconds += run.seconds
            return is_complete

        _core.Run.wait = timed_wait  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def full_core(network: Network, batch_size: int) -> EngineCore:
    """A core whose sequences all have their prompts behind them."""
    config = EngineConfig(prefix_cache=False, max_draft_tokens=0)
    core = EngineCore(network, config, num_blocks=16 * batch_size)
    generator = random.Random(0)
    for i in range(batch_size):
        prompt_ids = tuple(generator.randrange(1000) for _ in range(_PROMPT_LEN))
        sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=i)
        core.add(
            GenerateRequest(f"r{i}", "demo", prompt_ids, sampling=sampling, max_new_tokens=200)
        )
    for _ in range(4):
        core.step()
    return core


def measure(network: Network, batch_size: int, clock: ExtensionClock) -> tuple[float, float]:
    """One round: seconds per step, and those of them inside the extension."""
    core = full_core(network, batch_size)
    clock.seconds, start = 0.0, time.perf_counter()
    for _ in range(_NUM_STEPS):
        core.step()
    seconds = time.perf_counter() - start
    return seconds / _NUM_STEPS, clock.seconds / _NUM_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=ops.num_threads())
    parser.add_argument("--top", type=int, default=0, metavar="N", help="profile: N functions")
    args = parser.parse_args()
    ops.set_num_threads(args.threads)
    network = load_network(_DEMO, "bfloat16")
    clock = ExtensionClock()
    max_queued = core_module._MAX_QUEUED
    print("| sequences | steps | step, us | extension at work, us | share it is not |")
    print("| --- | --- | --- | --- | --- |")
    for batch_size in args.batches:
        rounds: dict[str, list[tuple[float, float]]] = {"one by one": [], "queued": []}
        for _ in range(args.rounds):
            for kind, figures in rounds.items():
                core_module._MAX_QUEUED = max_queued if kind == "queued" else 0
                figures.append(measure(network, batch_size, clock))
        for kind, figures in rounds.items():
            step, inside = min(figures)
            share = max(0.0, (step - inside) / step)
            print(
                f"| {batch_size} | {kind} | {1e6 * step:.0f} | {1e6 * inside:.0f} | {share:.0%} |",
                flush=True,
            )
    if args.top:
        core = full_core(network, args.batches[-1])
        with cProfile.Profile() as profile:
            for _ in range(_NUM_STEPS):
                core.step()
        pstats.Stats(profile).sort_stats("tottime").print_stats(args.top)


if __name__ == "__main__":
    main()
