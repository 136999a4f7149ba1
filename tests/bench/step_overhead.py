"""How much of a decode step is Python: `.venv/bin/python -m tests.bench.step_overhead`.

Steps the engine's core on the embedded demo model, at each batch size, with sampled requests and no
guesses, and prints microseconds per step: all of it, the part inside the extension, and the rest,
which is Python between two calls. Every figure is a median over steps of the fastest of some
rounds, as other programs of the machine only ever add time. `--top` profiles the functions behind
the rest at the last batch size.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phi3svc
from phi3svc import _core, ops
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import load_network
from phi3svc.model.phi3 import Phi3Network

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


def full_core(network: Phi3Network, batch_size: int) -> EngineCore:
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


def measure(network: Phi3Network, batch_size: int, clock: ExtensionClock) -> tuple[float, float]:
    """Medians of one round: seconds of a step, and those inside the extension."""
    core = full_core(network, batch_size)
    steps, inside = [], []
    for _ in range(_NUM_STEPS):
        clock.seconds, start = 0.0, time.perf_counter()
        core.step()
        steps.append(time.perf_counter() - start)
        inside.append(clock.seconds)
    return statistics.median(steps), statistics.median(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=ops.num_threads())
    parser.add_argument("--top", type=int, default=0, metavar="N", help="profile: N functions")
    args = parser.parse_args()
    ops.set_num_threads(args.threads)
    network = load_network(_DEMO, "bfloat16")
    clock = ExtensionClock()
    print(f"{'batch':>5} {'step us':>9} {'extension us':>13} {'Python us':>10} {'share':>6}")
    for batch_size in args.batches:
        step, inside = min(measure(network, batch_size, clock) for _ in range(args.rounds))
        share = (step - inside) / step
        print(
            f"{batch_size:5} {1e6 * step:9.1f} {1e6 * inside:13.1f} {1e6 * (step - inside):10.1f}"
            f" {share:6.1%}"
        )
    if args.top:
        core = full_core(network, args.batches[-1])
        with cProfile.Profile() as profile:
            for _ in range(_NUM_STEPS):
                core.step()
        pstats.Stats(profile).sort_stats("tottime").print_stats(args.top)


if __name__ == "__main__":
    main()
