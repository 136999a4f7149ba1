"""What is said of a packed file's size before it is written is what it has then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from phi3svc.config.model import Phi3Config
from phi3svc.model.loader import (
    expected_shapes,
    pack_checkpoint,
    packed_file_bytes,
    required_names,
)
from phi3svc.model.weights import WeightReader
from tests.model.checkpoints import make_checkpoint
from tests.model.small_checkpoints import make_small_checkpoint

LABELS = ("O", "B-X", "I-X")
KINDS: dict[str, Callable[[Path], Path]] = {
    "untied": make_checkpoint,
    "tied": partial(make_checkpoint, tie_word_embeddings=True),
    "gate and up padded each": partial(make_checkpoint, intermediate_size=100),
    "no head": partial(make_checkpoint, architecture="Phi3Model"),
    "classifier": partial(
        make_checkpoint, architecture="Phi3ForTokenClassification", labels=LABELS
    ),
    "tied classifier": partial(
        make_checkpoint,
        architecture="Phi3ForSequenceClassification",
        labels=LABELS,
        tie_word_embeddings=True,
    ),
    "phi3small": make_small_checkpoint,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4-g32-min-head4"])
def test_it_is_what_is_packed(tmp_path: Path, kind: str, format: str) -> None:
    """Here no weight has to keep more bits."""
    path = KINDS[kind](tmp_path / "source")
    config = Phi3Config.from_dir(path)
    reader = WeightReader(path, expected_shapes(config), required_names(config))
    file = tmp_path / "packed"
    with file.open("w+b", buffering=0) as stream:
        pack_checkpoint(path, format, stream.fileno())
    assert packed_file_bytes(config, reader, format) == file.stat().st_size
