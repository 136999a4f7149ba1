"""Phi-3-mini at its full size, 7.6 GB of random bfloat16: it loads, generates, and stays in bounds.

`make test-slow` runs this: it takes a minute or two, 8 GB of memory and as much of the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.engine.memory import available_bytes
from tests.model.full_size import NUM_NEW, PROMPTS, write_phi3_mini

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OVERHEAD_BYTES = 600_000_000
"""What the process may take besides weights in their served format, and keys and values."""


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """Removed at once: pytest keeps the folders of its last three runs."""
    if available_bytes() < 10 << 30:
        pytest.skip(f"{available_bytes() >> 30} GiB of memory are free; needs 10")
    with tempfile.TemporaryDirectory(prefix="phi3-mini-") as folder:
        yield write_phi3_mini(Path(folder))


@pytest.fixture(scope="module")
def report(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.model.full_size", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_generates_the_same_alone_and_together(report: dict[str, Any]) -> None:
    assert report["together"] == report["alone"]
    assert [len(token_ids) for token_ids in report["alone"]] == [NUM_NEW] * len(PROMPTS)
    assert len({tuple(token_ids) for token_ids in report["alone"]}) == len(PROMPTS)


def test_peak_memory_is_weights_cache_and_little_else(
    path: Path, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    weights_bytes = 2 * Phi3Config.from_dir(path).num_params
    assert weights_bytes == 7_642_159_104
    bound = weights_bytes + report["kv_bytes"] + OVERHEAD_BYTES
    with capsys.disabled():
        print(
            f"\nPhi-3-mini, bfloat16: loads in {report['load_s']:.1f} s, generates in "
            f"{report['generate_s']:.1f} s; peak {report['peak_bytes'] / 1e9:.3f} GB of "
            f"{bound / 1e9:.3f} GB allowed, {(bound - report['peak_bytes']) / 1e6:.0f} MB to spare"
        )
    assert weights_bytes < report["peak_bytes"] <= bound
