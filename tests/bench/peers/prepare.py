"""Makes what the runs need: the checkpoint, each engine's files, our packed weights, the probe."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import checkpoint
from tests.bench.peers.catalog import Entry, Places

SOURCE = Path(__file__).with_name("probe.cc")
FLAGS = ("-O3", "-march=native", "-std=c++20", "-pthread")


def prepare(entries: Sequence[Entry], places: Places, num_threads: int) -> dict[str, str]:
    """What is there already is kept. Says what could not be made: the reason, by entry's key."""
    places.work.mkdir(parents=True, exist_ok=True)
    if not places.checkpoint.exists():
        print(f"writing {places.checkpoint}", flush=True)
        checkpoint.write(places.checkpoint, places.num_layers)
    failures = {}
    for i, entry in enumerate(entries, 1):
        out = entry.path(places)
        if entry.is_ours:
            reason = _pack(entry, places, num_threads)
            if reason:
                failures[entry.key] = f"loading: {reason}"
        elif entry.converter and not out.exists():
            print(f"converting for {entry.key} ({i} of {len(entries)})", end="", flush=True)
            begun_s = time.monotonic()
            reason = _convert(entry, places, out)
            print(f": {reason or f'{time.monotonic() - begun_s:.0f} s'}", flush=True)
            if reason:
                failures[entry.key] = f"conversion: {reason}"
    return failures


def _pack(entry: Entry, places: Places, num_threads: int) -> str:
    """Loads once, which leaves the packed weights in their cache; what went wrong, or nothing."""
    command = [sys.executable, "-m", "tests.bench.peers.run", entry.module, entry.format]
    command += [str(entry.path(places)), "--threads", str(num_threads), "--load-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return last_line(done.stderr, done.returncode) if done.returncode else ""


def _convert(entry: Entry, places: Places, out: Path) -> str:
    """The last line of what went wrong, or nothing. `out` appears only when it is whole."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    words = {"checkpoint": places.checkpoint.resolve(), "out": part.resolve()}
    command = [entry.python(places), *(word.format(**words) for word in entry.converter)]
    log = places.work / f"convert-{entry.module}-{entry.format}.log"
    with log.open("w") as stream:
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=entry.environment(places),
            check=False,
        )
    if done.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        return last_line(log.read_text(errors="replace"), done.returncode)
    shutil.rmtree(part / "cache", ignore_errors=True)
    part.rename(out)
    return ""


def last_line(text: str, returncode: int) -> str:
    """Of an error's output; a signal has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if returncode < 0 or not lines:
        return f"ended with status {returncode}"
    return lines[-1][:200]


def build_probe(places: Places) -> Path:
    """Compiled anew: it is for this very CPU."""
    target = places.work / "probe"
    subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(target)], check=True)
    return target
