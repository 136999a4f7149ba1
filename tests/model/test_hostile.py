"""Checkpoints made to hang, crash or fill a server: each is one line, in bounded time and memory.

All are read by one other process, in which memory and time are limited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.model.hostile_attacks import ATTACKS, LATE_ATTACKS, Attack, write_good

ALL: dict[str, tuple[Attack, str]] = {"good": (lambda _: None, ""), **ATTACKS, **LATE_ATTACKS}


class Verdict(NamedTuple):
    folder: str
    seconds: float
    error: str
    text: str


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What became of each attack, and of `good`, the checkpoint that they were made from."""
    root = tmp_path_factory.mktemp("hostile")
    folders = {}
    for i, (name, (attack, _)) in enumerate(ALL.items()):
        attack(write_good(root / f"{i}"))
        folders[name] = root / f"{i}"
    child = subprocess.run(
        [sys.executable, "-m", "tests.model.hostile_child", *map(str, folders.values())],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    found = {line[0]: Verdict(*line) for line in lines if isinstance(line, list)}
    last = next(name for name, path in folders.items() if str(path) == lines[-2]["begun"])
    assert child.returncode == 0, f"ended by {last!r}: {child.stderr[-2000:]}"
    return {name: found[str(path)] for name, path in folders.items()}


def test_the_checkpoint_under_attack_is_good(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["good"].error == "NoneType", verdicts["good"].text


@pytest.mark.parametrize("name", [*ATTACKS, *LATE_ATTACKS])
def test_attacks_are_one_line(name: str, verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts[name]
    assert verdict.error == ("ConfigError" if name in ATTACKS else "InvalidRequest"), verdict
    assert ALL[name][1] in verdict.text
    assert "\n" not in verdict.text
    assert len(verdict.text) < 600
    assert verdict.seconds < 5
