"""Entities against transformers' pipeline, on the same tokens and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Phi3Config,
    Phi3ForTokenClassification,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)
from transformers.modeling_outputs import TokenClassifierOutput

from phi3svc.text.entities import Entity, TokenLabel, join_entities
from phi3svc.text.tokenizer import Tokenizer
from tests.text.conftest import byte_fallback_backend, byte_level_backend

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "S-ORG", "B-O"]
BACKENDS = {"byte_fallback": byte_fallback_backend, "byte_level": byte_level_backend}


class ScriptedModel(Phi3ForTokenClassification):
    """Gives the scores it was told to give."""

    logits: np.ndarray[Any, Any]

    def forward(self, input_ids: torch.Tensor, **_: object) -> TokenClassifierOutput:
        logits = torch.from_numpy(self.logits[None, : input_ids.shape[1]])
        return TokenClassifierOutput(logits=logits)


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def pipeline(request: pytest.FixtureRequest) -> TokenClassificationPipeline:
    backend = BACKENDS[request.param]()
    config = Phi3Config(
        vocab_size=backend.get_vocab_size(),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=None,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return TokenClassificationPipeline(
        model=ScriptedModel(config),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend),
        aggregation_strategy="simple",
    )


@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(min_size=1, max_size=30).filter(lambda text: "<" not in text),
        st.sampled_from(["the lazy dog, one fox", " Köln  and 你好世界 👍🏽!", "\n"]),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_entities_equal_those_of_transformers(
    pipeline: TokenClassificationPipeline, text: str, seed: int
) -> None:
    tokenizer = Tokenizer(pipeline.tokenizer.backend_tokenizer.to_str())
    ids, spans = tokenizer.encode_with_offsets(text)
    generator = np.random.default_rng(seed)
    # Few distinct labels in a row, so that neighbours agree often.
    logits = generator.normal(size=(len(ids), len(LABELS))).astype(np.float32)
    logits[:, generator.integers(len(LABELS), size=2)] += 1
    pipeline.model.logits = logits

    expected = pipeline(text)

    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = weights / weights.sum(axis=-1, keepdims=True)
    entities = join_entities(
        TokenLabel(LABELS[row.argmax()], float(row.max()), *span)
        for row, span in zip(scores, spans, strict=True)
        if span is not None
    )
    assert [(e.label, e.start, e.end) for e in entities] == [
        (e["entity_group"], e["start"], e["end"]) for e in expected
    ]
    np.testing.assert_allclose([e.score for e in entities], [e["score"] for e in expected], 1e-6)


def test_a_new_beginning_starts_a_new_entity() -> None:
    labels = ["B-PER", "I-PER", "B-PER", "O", "I-PER", "I-LOC", "I-LOC"]
    tokens = [TokenLabel(label, 0.5 + i / 10, i, i + 1) for i, label in enumerate(labels)]
    assert join_entities(tokens) == [
        Entity("PER", 0.55, 0, 2),
        Entity("PER", 0.7, 2, 3),
        Entity("PER", 0.9, 4, 5),
        Entity("LOC", 1.05, 5, 7),
    ]


def test_nothing_is_found_in_nothing() -> None:
    assert join_entities([]) == []
    assert join_entities([TokenLabel("O", 1.0, 0, 3)]) == []
