"""Losses from labels against transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
)
from phi3svc.errors import InvalidRequest
from tests.api.batches import pad, theirs
from tests.model import oracle
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

IDS = torch.tensor([random_ids(12, seed=1), random_ids(12, seed=2), random_ids(12, seed=3)])
PARTLY = IDS.masked_fill(torch.arange(12) % 3 == 0, -100)


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels": IDS},
        {"labels": PARTLY},
        {"labels": PARTLY, "num_items_in_batch": 7},
        {"labels": PARTLY, "num_items_in_batch": torch.tensor(7)},
        {"labels": IDS, "shift_labels": PARTLY},
        {"labels": IDS.clamp(max=100), "ignore_index": 100},
    ],
    ids=["all", "some", "sum", "sum-tensor", "shifted", "ignored"],
)
def test_causal_loss(checkpoint: MakeCheckpoint, arguments: dict[str, Any]) -> None:
    path = checkpoint()
    ours = Phi3ForCausalLM.from_pretrained(path)(IDS, **arguments).loss
    full = theirs(oracle.load(path), IDS, **arguments).loss
    assert ours is not None
    torch.testing.assert_close(ours, full, rtol=1e-5, atol=0)


def test_causal_loss_of_a_padded_batch(checkpoint: MakeCheckpoint) -> None:
    """Padding labelled -100: as in transformers. A label there, if it has one, is ignored."""
    path = checkpoint()
    model = Phi3ForCausalLM.from_pretrained(path)
    ids, mask = pad([random_ids(12), random_ids(5)], side="right")
    labels = ids.masked_fill(mask == 0, -100)
    ours = model(ids, mask, labels=labels).loss
    full = theirs(oracle.load(path), ids, attention_mask=mask, labels=labels).loss
    assert ours is not None
    torch.testing.assert_close(ours, full, rtol=1e-5, atol=0)
    labels[1, 6:] = 3
    assert model(ids, mask, labels=labels).loss == ours


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_token_loss(checkpoint: MakeCheckpoint, dtype: str) -> None:
    path = checkpoint("Phi3ForTokenClassification", labels=("a", "b", "c"))
    labels = (IDS % 3).masked_fill(IDS > 200, -100)
    ours = Phi3ForTokenClassification.from_pretrained(path, dtype=dtype)(IDS, labels=labels).loss
    full = theirs(oracle.load(path, "float32", "Phi3ForTokenClassification"), IDS, labels=labels)
    assert ours is not None
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, full.loss, rtol=1e-5 if dtype == "float32" else 2e-2, atol=0)


SEQUENCE_CASES: dict[str, tuple[int, str | None, Tensor]] = {
    "inferred-regression": (1, None, torch.tensor([0.5, -1.0, 2.0])),
    "inferred-single": (4, None, torch.tensor([0, 3, 2])),
    "inferred-multi": (4, None, torch.eye(4)[:3]),
    "regression": (4, "regression", torch.randn(3, 4, generator=torch.Generator().manual_seed(0))),
    "regression-column": (1, "regression", torch.tensor([[0.5], [-1.0], [2.0]])),
    "single": (4, "single_label_classification", torch.tensor([[1], [0], [3]])),
    "single-ignored": (4, "single_label_classification", torch.tensor([1, -100, 3])),
    "multi": (4, "multi_label_classification", torch.eye(4)[:3]),
    "multi-of-one": (1, "multi_label_classification", torch.tensor([[1.0], [0.0], [1.0]])),
}


@pytest.mark.parametrize("case", SEQUENCE_CASES)
def test_sequence_loss(checkpoint: MakeCheckpoint, case: str) -> None:
    num_labels, problem_type, labels = SEQUENCE_CASES[case]
    names = tuple("abcd"[:num_labels])
    path = checkpoint("Phi3ForSequenceClassification", labels=names, problem_type=problem_type)
    ours = Phi3ForSequenceClassification.from_pretrained(path)(IDS, labels=labels).loss
    full = theirs(oracle.load(path, "float32", "Phi3ForSequenceClassification"), IDS, labels=labels)
    assert ours is not None
    torch.testing.assert_close(ours, full.loss, rtol=1e-5, atol=0)


def test_problem_type_may_be_given(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForSequenceClassification", labels=tuple("abcd"))
    model = Phi3ForSequenceClassification.from_pretrained(path, problem_type="regression")
    labels = torch.tensor([[0, 1, 2, 3]] * 3)  # integers would make it single-label
    out = model(IDS, labels=labels)
    assert out.loss is not None
    torch.testing.assert_close(out.loss, ((out.logits - labels) ** 2).mean())


BAD_LABELS: dict[str, Callable[[Any, Any], object]] = {
    "^labels: is a list; expected a tensor": lambda c, s: c(IDS, labels=IDS.tolist()),
    "labels: is a tuple; expected a tensor": lambda c, s: s(IDS, labels=(1, 0, 0)),
    "labels: 300: must be 0 to 299, or -100": lambda c, s: c(IDS, labels=IDS.clamp(min=300)),
    r"labels: .*\[3, 11\]; expected integers \[3, 12\]": lambda c, s: c(IDS, labels=IDS[:, 1:]),
    r"shift_labels: torch\.float32": lambda c, s: c(IDS, shift_labels=IDS.float()),
    "labels: 4: must be 0 to 3": lambda c, s: s(IDS, labels=torch.tensor([4, 0, 0])),
    r"labels: is \[3\]; expected \[3, 4\] for multi_label": lambda c, s: s(
        IDS, labels=torch.tensor([0.0, 1.0, 1.0])
    ),
}


@pytest.mark.parametrize("message", BAD_LABELS)
def test_bad_labels_are_named(checkpoint: MakeCheckpoint, message: str) -> None:
    causal = Phi3ForCausalLM.from_pretrained(checkpoint())
    path = checkpoint("Phi3ForSequenceClassification", labels=tuple("abcd"))
    sequence = Phi3ForSequenceClassification.from_pretrained(path)
    with pytest.raises(InvalidRequest, match=message):
        BAD_LABELS[message](causal, sequence)
