"""The tiny checkpoints of the model's tests, and one of them to generate from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi3svc.api.modeling import Phi3ForCausalLM
from tests.api.generating import ORIGINAL, oracle_model
from tests.model.conftest import MakeCheckpoint, checkpoint, quiet_single_thread

__all__ = ["checkpoint", "quiet_single_thread"]


@pytest.fixture(scope="module")
def path(checkpoint: MakeCheckpoint) -> Path:
    """A checkpoint whose original length answers cross; files of tests may have another."""
    return checkpoint(original=ORIGINAL)


@pytest.fixture(scope="module")
def model(path: Path) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(path)


@pytest.fixture(scope="module")
def oracle(path: Path) -> Any:
    """The same in transformers."""
    return oracle_model(path)
