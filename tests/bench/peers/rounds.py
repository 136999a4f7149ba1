"""Alternating rounds: the machine's limits, then every engine in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers.catalog import Entry, Places
from tests.bench.peers.prepare import last_line

SAMPLE_S = 0.05
TIMEOUT_S = 1200

Record = dict[str, Any]


class Rounds:
    """The raw records, kept in a file after each process so that a run that was cut off goes on.

    A record: round, key (an entry's, or "probe"), and the figures, or "error".
    """

    def __init__(self, file: Path, *, is_resumed: bool) -> None:
        self._file = file
        self.records: list[Record] = []
        if is_resumed and file.exists():
            self.records = json.loads(file.read_text())

    def has(self, number: int, key: str) -> bool:
        return any(r["round"] == number and r["key"] == key for r in self.records)

    def add(self, number: int, key: str, figures: Mapping[str, Any]) -> None:
        self.records.append({"round": number, "key": key, **figures})
        temporary = self._file.with_suffix(".part")
        temporary.write_text(json.dumps(self.records, indent=1) + "\n")
        temporary.replace(self._file)

    def run(
        self,
        entries: Sequence[Entry],
        places: Places,
        probe: Path,
        *,
        num_rounds: int,
        num_threads: int,
        is_quick: bool,
    ) -> None:
        for number in range(num_rounds):
            if not self.has(number, "probe"):
                self.add(number, "probe", _probe(probe, num_threads))
            # Each round begins elsewhere, so that nobody always follows the same neighbour.
            shift = number * len(entries) // max(1, num_rounds)
            for entry in [*entries[shift:], *entries[:shift]]:
                if self.has(number, entry.key):
                    continue
                begun_s = time.monotonic()
                figures = _run(entry, places, num_threads=num_threads, is_quick=is_quick)
                self.add(number, entry.key, figures)
                outcome = figures.get("error") or _brief(figures)
                print(
                    f"round {number + 1} of {num_rounds}, {entry.key}, "
                    f"{time.monotonic() - begun_s:.0f} s: {outcome}",
                    flush=True,
                )


def _probe(probe: Path, num_threads: int) -> Record:
    done = subprocess.run([probe, str(num_threads)], capture_output=True, text=True, check=True)
    limits: Record = json.loads(done.stdout)
    print(f"limits: {limits}", flush=True)
    return limits


def _run(entry: Entry, places: Places, *, num_threads: int, is_quick: bool) -> Record:
    path = entry.path(places)
    _read_all(path)
    command = [entry.python(places), "-m", "tests.bench.peers.run", entry.module, entry.format]
    command += [str(path), "--threads", str(num_threads), *(["--quick"] if is_quick else [])]
    log = places.work / f"run-{entry.module}-{entry.format}.log"
    environment = dict(entry.environment(places)) | {"OMP_NUM_THREADS": str(num_threads)}
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            anonymous = _watch(child)
        except BaseException:
            child.kill()
            child.wait()
            raise
    text = log.read_text(errors="replace")
    if child.returncode != 0:
        return {"error": last_line(text, child.returncode)}
    figures: Record = json.loads(text.splitlines()[-1])
    return figures | {"peak_anonymous": anonymous}


def _read_all(path: Path) -> None:
    """Into the page cache: a start is timed from there, whatever ran before."""
    for file in path.iterdir():
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(16 << 20):
                    pass


def _watch(child: subprocess.Popen[bytes]) -> int:
    """Waits for its end, and says how much anonymous memory it had at most, in bytes, sampled."""
    status = Path(f"/proc/{child.pid}/status")
    most, end_s = 0, time.monotonic() + TIMEOUT_S
    while child.poll() is None:
        if time.monotonic() > end_s:
            child.kill()
            child.wait()
            break
        found = re.search(r"^RssAnon:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        most = max(most, int(found[1]) * 1024 if found else 0)
        time.sleep(SAMPLE_S)
    return most


def _brief(figures: Record) -> str:
    names = ("prefill_512", "prefill_2048", "decode_1", "decode_8", "decode_16")
    return ", ".join(f"{name} {figures[name]:.1f}" for name in names)
