"""Phi-3-mini at its full size, 7.6 GB of random bfloat16: it loads, generates, and stays in bounds.

`make test-slow` runs this: it takes some minutes, 10 GB of memory and 26 of the disk.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3svc.cli.footprint import weights_bytes
from phi3svc.config.model import Phi3Config
from phi3svc.engine.memory import available_bytes
from tests.model.full_size import NUM_NEW, PROMPTS, write_phi3_mini

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OVERHEAD_BYTES = 600_000_000
"""What the process may take besides weights in their served format, and keys and values."""
START_S = 5.0
"""From the command to SERVING, with packed weights cached and in memory."""
WAYS = ("in memory", "into the cache", "from the cache")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Removed at once: pytest keeps the folders of its last three runs."""
    if available_bytes() < 10 << 30:
        pytest.skip(f"{available_bytes() >> 30} GiB of memory are free; needs 10")
    free_bytes = shutil.disk_usage(tempfile.gettempdir()).free
    if free_bytes < 24 << 30:  # the checkpoint, and twice what the cache is to keep
        pytest.skip(f"{free_bytes >> 30} GiB of the disk are free; needs 24")
    with tempfile.TemporaryDirectory(prefix="phi3-mini-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    (folder / "checkpoint").mkdir()
    return write_phi3_mini(folder / "checkpoint")


@pytest.fixture(scope="module", params=["bfloat16", "int8", "int4"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reports(folder: Path, path: Path, dtype: str) -> dict[str, dict[str, Any]]:
    """By way of loading, one after the other."""
    found = {}
    for way in WAYS:
        cache = "off" if way == "in memory" else str(folder / "cache")
        command = [sys.executable, "-m", "tests.model.full_size", str(path), dtype, cache]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found[way] = json.loads(done.stdout)
    return found


def test_generates_the_same_alone_together_and_however_loaded(
    reports: dict[str, dict[str, Any]],
) -> None:
    for report in reports.values():
        assert report["together"] == report["alone"] == reports["in memory"]["alone"]
        assert [len(token_ids) for token_ids in report["alone"]] == [NUM_NEW] * len(PROMPTS)
        assert len({tuple(token_ids) for token_ids in report["alone"]}) == len(PROMPTS)


def test_peak_memory_is_weights_cache_and_little_else(
    path: Path, dtype: str, reports: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Phi3Config.from_dir(path)
    num_bytes = weights_bytes(config, config.num_params)
    assert num_bytes["bfloat16"] == 7_642_159_104
    for way, report in reports.items():
        bound = num_bytes[dtype] + report["kv_bytes"] + OVERHEAD_BYTES
        with capsys.disabled():
            print(
                f"\nPhi-3-mini, {dtype}, {way}: loads in {report['load_s']:.1f} s, generates in "
                f"{report['generate_s']:.1f} s; peak {report['peak_bytes'] / 1e9:.3f} GB of "
                f"{bound / 1e9:.3f} GB allowed, {(bound - report['peak_bytes']) / 1e6:.0f} MB spare"
            )
        assert num_bytes[dtype] < report["peak_bytes"] <= bound


@pytest.mark.usefixtures("reports")
def test_serves_within_seconds_from_the_cache(
    folder: Path, path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun_s = time.perf_counter()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "phi3svc", "serve", "--model", f"mini={path}"),
            *("--dtype", dtype, "--packed-cache", str(folder / "cache")),
            *("--listen", "127.0.0.1:0", "--kv-memory", "100"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:
        assert server.stdout is not None
        line = server.stdout.readline()
        elapsed_s = time.perf_counter() - begun_s
        server.send_signal(signal.SIGTERM)
    assert line.startswith("listening on ")
    with capsys.disabled():
        print(f"\nPhi-3-mini, {dtype}: serves after {elapsed_s:.1f} s")
    assert elapsed_s < START_S
