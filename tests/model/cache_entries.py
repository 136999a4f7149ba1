"""Entries of a cache of packed weights that hold nothing, and a disk to have them on."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from phi3svc.model.packed_cache import Entry, PackedCache

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
"""Keys."""


def entries(cache: PackedCache) -> list[Path]:
    """Once all of them are on the disk for good."""
    for _ in range(500):
        files = sorted(cache.folder.iterdir())
        if all(file.name.count(".") == 1 for file in files):
            return files
        time.sleep(0.01)
    raise AssertionError(files)


def disk_of(num_bytes: int, monkeypatch: pytest.MonkeyPatch, folder: Path | None = None) -> None:
    """A disk with so much room; for what is in `folder` as well, if that is given."""

    def disk_usage(_: object) -> SimpleNamespace:
        files = [] if folder is None else folder.iterdir()
        free = num_bytes - sum(file.stat().st_size for file in files)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)


def fill(cache: PackedCache, key: str, num_bytes: int) -> Entry:
    return cache.make(
        key,
        num_bytes,
        lambda descriptor, _: os.posix_fallocate(descriptor, 0, num_bytes),
        lambda: None,
    )
