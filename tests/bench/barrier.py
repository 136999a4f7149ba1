"""What sharing an op among threads costs: `.venv/bin/python -m tests.bench.barrier`.

Compiles barrier.cc with the pool of csrc/ and prints the tables kept in
tests/bench/results/barrier.md:

* An empty `parallel_for` with a task per thread, which one thread may run alone if the others are
  late; one that nobody leaves before all have come (a true barrier); and the same after a
  millisecond's pause, when the workers sleep. More threads than CPUs never meet without the kernel.
* A sequence like a decode step's: 100 times a short part on the calling thread, then 64 tasks of a
  few microseconds for all threads; beside processes that compute without end. Rounds of all numbers
  of threads alternate; medians. The fair gain is what the kernel would give n threads over one if
  it shared the CPUs evenly among all that want to run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SOURCES = ["parallel.cc", "thread_pool.cc", "available_cpus.cc"]
_STEP_THREADS = (1, 2, 4)
_NUM_CPUS = len(os.sched_getaffinity(0))


def compiled(folder: str) -> str:
    program = f"{folder}/barrier"
    sources = [Path(__file__).with_suffix(".cc"), *(_ROOT / "csrc/cpu" / s for s in _SOURCES)]
    flags = ["-std=c++20", "-O3", "-pthread", f"-I{_ROOT / 'csrc'}", "-o", program]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, *map(str, sources)], check=True)
    return program


def measured(program: str, kind: str, num_threads: int, pin: bool, amount: float) -> list[float]:
    """The two figures that the program prints."""
    command = [program, kind, str(num_threads), str(int(pin)), str(amount)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(text) for text in done.stdout.split()]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def print_barriers(program: str, num_rounds: int) -> None:
    print("| what | threads | pinned | median, us | 99th percentile, us |")
    print("| --- | --- | --- | --- | --- |")
    names = {"empty": "empty parallel_for", "meet": "all meet", "wake": "all meet, from sleep"}
    cases = [("empty", n, False, 100_000) for n in (1, 2, 4, 16)]
    cases += [(kind, 2, pin, 100_000) for kind in ("meet",) for pin in (False, True)]
    cases += [("wake", 2, pin, 500) for pin in (False, True)]
    for kind, num_threads, pin, amount in cases:
        if kind != "empty" and num_threads > _NUM_CPUS:
            continue
        runs = [measured(program, kind, num_threads, pin, amount) for _ in range(num_rounds)]
        median, worst = (statistics.median(figures) / 1e3 for figures in zip(*runs, strict=True))
        yes = "yes" if pin else "no"
        print(f"| {names[kind]} | {num_threads} | {yes} | {median:.2f} | {worst:.2f} |", flush=True)


def fair_cpus(num_threads: int, num_busy: int) -> float:
    even = _NUM_CPUS * num_threads / (num_threads + num_busy)
    return min(even, num_threads, _NUM_CPUS)


def print_steps(program: str, num_rounds: int, seconds: float) -> None:
    print("| busy processes | threads | pinned | steps/s | CPUs used | to 1 thread | fair gain |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    cases = [(n, False) for n in _STEP_THREADS] + [(2, True)]
    for num_busy in (0, 1, 2, 4):
        rounds = []
        with busy_processes(num_busy):
            for _ in range(num_rounds):
                rounds.append([measured(program, "steps", *case, seconds) for case in cases])
        for case, figures in zip(cases, zip(*rounds, strict=True), strict=True):
            num_threads, pin = case
            steps, cpus = (statistics.median(column) for column in zip(*figures, strict=True))
            gain = statistics.median(
                own[0] / figures_of_round[0][0]
                for own, figures_of_round in zip(figures, rounds, strict=True)
            )
            fair = fair_cpus(num_threads, num_busy) / fair_cpus(1, num_busy)
            yes = "yes" if pin else "no"
            print(
                f"| {num_busy} | {num_threads} | {yes} | {steps:.1f} | {cpus:.2f} "
                f"| {gain:.2f} | {fair:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each round of steps")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
        print_barriers(program, args.rounds)
        print()
        print_steps(program, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
