"""One thread, quiet transformers, and checkpoints made once for each distinct shape."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.devices import BACKEND
from tests.model.checkpoints import make_checkpoint

MakeCheckpoint = Callable[..., Path]

DTYPES = {
    "cpu": ("float32", "bfloat16", "int8", "int4"),
    "cuda": ("float32", "bfloat16", "fp8"),
}[BACKEND]
"""That networks can be loaded in, as `--dtype` has them."""


@pytest.fixture(scope="session", autouse=True)
def quiet_single_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """`make_checkpoint` without the path; equal arguments give the same folder. Do not write."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(architecture: str = "Phi3ForCausalLM", **overrides: Any) -> Path:
        key = repr((architecture, sorted(overrides.items())))
        path = root / hashlib.sha256(key.encode()).hexdigest()[:16]
        return path if path.exists() else make_checkpoint(path, architecture, **overrides)

    return make
