"""A tiny checkpoint for each kind of classification head there is, and transformers' answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file, save_file

from tests.model.checkpoints import make_checkpoint

ENTITY_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
# How many labels each has, of which one alone is a case of its own, and fields of its config.
SEQUENCE_HEADS: dict[str, tuple[int, dict[str, Any]]] = {
    "exclusive": (3, {}),
    "exclusive-by-name": (2, {"problem_type": "single_label_classification"}),
    "alone": (1, {}),
    "independent": (4, {"problem_type": "multi_label_classification"}),
    "independent-alone": (1, {"problem_type": "multi_label_classification"}),
    "regression": (1, {"problem_type": "regression"}),
    "regression-of-two": (2, {"problem_type": "regression"}),
    "without-pad-token": (3, {"pad_token_id": None}),
}
TOKEN_HEADS = ("with-bias", "without-bias", "old-names")
TEXTS = (
    "A short text.",
    "Another one, somewhat longer than the original length allows.",
    # The pad token at the end is not pooled, and what stands before it is, if there is any.
    "The end<|endoftext|>",
    "<|endoftext|><|endoftext|>",
)


def make_head(folder: Path, name: str) -> Path:
    """Write the checkpoint of one of the heads above into `folder` / `name`, and return that."""
    path = folder / name
    if name in SEQUENCE_HEADS:
        num_labels, fields = SEQUENCE_HEADS[name]
        labels = tuple(f"label {i}" for i in range(num_labels))
        architecture = "Phi3ForSequenceClassification"
        return make_checkpoint(path, architecture, labels=labels, original=32, **fields)
    make_checkpoint(
        path,
        "Phi3ForTokenClassification",
        labels=ENTITY_LABELS,
        token_classification_bias=name != "without-bias",
        original=32,
    )
    if name == "old-names":
        _rename_score(path / "model.safetensors")
    return path


def oracle(task: str, path: Path) -> Any:
    """transformers' pipeline on the checkpoint, in float32 on the CPU."""
    return transformers.pipeline(task, model=_for_oracle(path), device="cpu")


def _for_oracle(path: Path) -> str:
    # transformers 5 knows the older names no more; the same seed made the same weights.
    return str(path.parent / "with-bias") if path.name == "old-names" else str(path)


def _rename_score(file: Path) -> None:
    weights = load_file(file)
    renamed = {name.replace("score.", "classifier."): tensor for name, tensor in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, file, metadata={"format": "pt"})
