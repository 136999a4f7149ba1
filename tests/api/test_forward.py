"""The public classes against transformers; and what they do with padding on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phi3svc.api import forward_pass, modeling
from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
    Phi3Model,
)
from phi3svc.errors import InvalidRequest
from tests.api.batches import pad
from tests.model import oracle
from tests.model.checkpoints import PAD_TOKEN_ID
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

LABELS = ("a", "b", "c", "d", "e")
LENGTHS = (20, 33, 1, 40)
"""Rows of one batch: short, long (the original length is 32), one token, and the longest."""


def padded(side: str) -> tuple[list[list[int]], Tensor, Tensor]:
    """Rows of LENGTHS with their padded ids and mask."""
    rows = [random_ids(n, seed=n) for n in LENGTHS]
    return rows, *pad(rows, side, max(LENGTHS) + 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_equal_transformers_alone(checkpoint: MakeCheckpoint, side: str) -> None:
    path = checkpoint(original=32)
    rows, ids, mask = padded(side)
    theirs = oracle.load(path)
    logits = Phi3ForCausalLM.from_pretrained(str(path))(ids, attention_mask=mask).logits
    assert logits.shape == (*ids.shape, 300)
    assert logits.dtype == torch.float32
    for i, row in enumerate(rows):
        expected = oracle.logits(theirs, row)
        assert oracle.relative_error(logits[i, mask[i] == 1], expected) < 1e-4
    assert not logits[mask == 0].any()


def test_padding_leaves_the_bits_alone(checkpoint: MakeCheckpoint) -> None:
    model = Phi3ForCausalLM.from_pretrained(str(checkpoint(original=32)))
    rows, ids, mask = padded("left")
    logits = model.forward(ids, mask).logits
    for i, row in enumerate(rows):
        alone = model.forward(torch.tensor([row])).logits[0]
        assert logits[i, mask[i] == 1].equal(alone)


def test_batches_beyond_one_step_equal_each_row_alone(
    checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Phi3ForCausalLM.from_pretrained(str(checkpoint(original=32)))
    _, ids, mask = padded("right")
    expected = model.forward(ids, mask).logits
    monkeypatch.setattr(forward_pass, "_STEP_TOKENS", 23)  # cuts rows, and steps hold two rows
    monkeypatch.setattr(modeling, "_LOGIT_ROWS", 9)
    assert model.forward(ids, mask).logits.equal(expected)


def test_last_hidden_state_equals_transformers(checkpoint: MakeCheckpoint) -> None:
    """From a causal checkpoint, and from one that Phi3Model itself saved, without the prefix."""
    ids = random_ids(40)
    for path in (checkpoint(original=32), checkpoint("Phi3Model", original=32)):
        theirs = oracle.load(path, architecture="Phi3Model")
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).last_hidden_state
        actual = Phi3Model.from_pretrained(str(path))(torch.tensor([ids])).last_hidden_state
        assert actual.shape == expected.shape
        assert oracle.relative_error(actual, expected) < 1e-4
    half = Phi3Model.from_pretrained(path, dtype=torch.bfloat16)
    assert half(torch.tensor([ids])).last_hidden_state.dtype == torch.bfloat16


@pytest.mark.parametrize("side", ["left", "right"])
def test_sequence_scores_equal_transformers(checkpoint: MakeCheckpoint, side: str) -> None:
    path = checkpoint("Phi3ForSequenceClassification", original=32, labels=LABELS)
    theirs = oracle.load(path, architecture="Phi3ForSequenceClassification")
    rows, ids, mask = padded(side)
    scores = Phi3ForSequenceClassification.from_pretrained(str(path))(ids, mask).logits
    assert scores.shape == (len(rows), len(LABELS))
    for i, row in enumerate(rows):
        assert oracle.relative_error(scores[i], oracle.logits(theirs, row)) < 1e-4


@pytest.mark.parametrize(
    "tail", [[PAD_TOKEN_ID], [PAD_TOKEN_ID] * 3, [PAD_TOKEN_ID, 5], []], ids=str
)
def test_sequence_pools_the_last_token_that_is_not_pad(
    checkpoint: MakeCheckpoint, tail: list[int]
) -> None:
    """Phi-3's pad token is its end of text, so a text may end in it without being padded."""
    path = checkpoint("Phi3ForSequenceClassification", labels=LABELS)
    theirs = oracle.load(path, architecture="Phi3ForSequenceClassification")
    model = Phi3ForSequenceClassification.from_pretrained(str(path))
    for row in (random_ids(9) + tail, [PAD_TOKEN_ID], [PAD_TOKEN_ID, PAD_TOKEN_ID]):
        scores = model.forward(torch.tensor([row])).logits[0]
        assert oracle.relative_error(scores, oracle.logits(theirs, row)) < 1e-4


def test_sequence_without_a_pad_token_pools_the_last(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForSequenceClassification", labels=LABELS, pad_token_id=None)
    theirs = oracle.load(path, architecture="Phi3ForSequenceClassification")
    row = [*random_ids(9), PAD_TOKEN_ID]
    scores = Phi3ForSequenceClassification.from_pretrained(str(path))(torch.tensor([row])).logits
    assert oracle.relative_error(scores[0], oracle.logits(theirs, row)) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_token_scores_equal_transformers(checkpoint: MakeCheckpoint, dtype: str) -> None:
    path = checkpoint("Phi3ForTokenClassification", original=32, labels=LABELS, dtype=dtype)
    rows, ids, mask = padded("right")
    model = Phi3ForTokenClassification.from_pretrained(str(path))
    assert model.network.weights.score_bias is not None
    scores = model(ids, mask).logits
    assert scores.shape == (*ids.shape, len(LABELS))
    exact = oracle.load(path, "float32", "Phi3ForTokenClassification")
    theirs = oracle.load(path, dtype, "Phi3ForTokenClassification")
    for i, row in enumerate(rows):
        expected = oracle.logits(exact, row)
        limit = max(1e-4, 2 * oracle.relative_error(oracle.logits(theirs, row), expected))
        assert oracle.relative_error(scores[i, : len(row)], expected) < limit
    assert not scores[mask == 0].any()


def test_token_classifier_without_bias(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForTokenClassification", labels=LABELS, token_classification_bias=False)
    row = random_ids(12)
    scores = Phi3ForTokenClassification.from_pretrained(str(path))(torch.tensor([row])).logits
    theirs = oracle.load(path, architecture="Phi3ForTokenClassification")
    assert oracle.relative_error(scores[0], oracle.logits(theirs, row)) < 1e-4


def test_row_of_padding_alone(checkpoint: MakeCheckpoint) -> None:
    ids = torch.tensor([[1, 2], [3, 4]])
    mask = torch.tensor([[0, 0], [1, 1]])
    model = Phi3ForCausalLM.from_pretrained(str(checkpoint()))
    logits = model(ids, mask).logits
    assert not logits[0].any()
    assert logits[1].equal(model(ids[1:]).logits[0])
    path = checkpoint("Phi3ForSequenceClassification", labels=LABELS)
    with pytest.raises(InvalidRequest, match="no real token"):
        Phi3ForSequenceClassification.from_pretrained(str(path))(ids, mask)
