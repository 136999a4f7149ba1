"""Entities against transformers' pipeline, on the same tokens and scores, by every strategy."""

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

from phi3svc.errors import InvalidRequest
from phi3svc.text.entities import STRATEGIES, ScoredToken, aggregate, check_strategy, score_tokens
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
    )


# transformers says so for every token of a tokenizer without a continuing prefix.
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40, deadline=None)
@given(
    text=st.one_of(
        st.text(min_size=1, max_size=30).filter(lambda text: "<" not in text),
        st.sampled_from(
            ["the lazy dog, one fox", " Köln  and 你好世界 👍🏽!", "\n", "fox's (dog)."]
        ),
    ),
    ignore_labels=st.sampled_from([("O",), (), ("PER", "B-PER", "MISC")]),
    seed=st.integers(0, 2**32 - 1),
)
def test_entities_equal_those_of_transformers(
    pipeline: TokenClassificationPipeline,
    strategy: str,
    text: str,
    ignore_labels: tuple[str, ...],
    seed: int,
) -> None:
    tokenizer = Tokenizer(pipeline.tokenizer.backend_tokenizer.to_str())
    ids, spans = tokenizer.encode_with_offsets(text)
    generator = np.random.default_rng(seed)
    # Few distinct labels in a row, so that neighbours agree often.
    logits = generator.normal(size=(len(ids), len(LABELS))).astype(np.float32)
    logits[:, generator.integers(len(LABELS), size=2)] += 1
    pipeline.model.logits = logits

    expected = pipeline(text, aggregation_strategy=strategy, ignore_labels=list(ignore_labels))

    tokens = score_tokens(text, ids, spans, logits.tolist())
    entities = aggregate(tokens, LABELS, strategy, ignore_labels)
    assert [(e.label, e.start, e.end) for e in entities] == [
        (e.get("entity", e.get("entity_group")), e["start"], e["end"]) for e in expected
    ]
    np.testing.assert_allclose([e.score for e in entities], [e["score"] for e in expected], 1e-6)
    if strategy == "none":
        assert [tokens[e.words[0][0]].index for e in entities] == [e["index"] for e in expected]


def sure(*labels: str, subwords: tuple[int, ...] = ()) -> list[ScoredToken]:
    """A token of one character per label, each surer than the one before: 0.5, 0.6, ..."""
    return [
        ScoredToken(
            i, [0.5 + i / 10 if name == label else 0.0 for name in LABELS], i, i + 1, i in subwords
        )
        for i, label in enumerate(labels)
    ]


def found(tokens: list[ScoredToken], strategy: str) -> list[tuple[str, float, int, int]]:
    return [
        (e.label, pytest.approx(e.score), e.start, e.end)
        for e in aggregate(tokens, LABELS, strategy)
    ]


def test_a_new_beginning_starts_a_new_entity() -> None:
    tokens = sure("B-PER", "I-PER", "B-PER", "O", "I-PER", "I-LOC", "I-LOC")
    assert found(tokens, "simple") == [
        ("PER", 0.55, 0, 2),
        ("PER", 0.7, 2, 3),
        ("PER", 0.9, 4, 5),
        ("LOC", 1.05, 5, 7),
    ]


def test_a_word_has_one_label_by_its_strategy() -> None:
    tokens = sure("B-PER", "I-LOC", "I-PER", "B-LOC", subwords=(1, 2))
    assert found(tokens, "first") == [("PER", 0.5, 0, 3), ("LOC", 0.8, 3, 4)]
    assert found(tokens, "average") == [("PER", 0.7 / 3, 0, 3), ("LOC", 0.8, 3, 4)]
    assert found(tokens, "max") == [("PER", 0.7, 0, 3), ("LOC", 0.8, 3, 4)]
    assert [e.words for e in aggregate(tokens, LABELS, "max")] == [(range(3),), (range(3, 4),)]


def test_equally_sure_tokens_leave_the_word_to_the_first() -> None:
    rows = [[0.0] * len(LABELS) for _ in range(2)]
    # Both probabilities are 1 in float32, where transformers compares them.
    rows[0][1], rows[1][3] = 20.0, 30.0
    tokens = score_tokens("ab", [0, 1], [(0, 1), (1, 2)], rows)
    assert [e.label for e in aggregate(tokens, LABELS, "max")] == ["PER"]


def test_words_begin_at_blanks_and_unknown_tokens() -> None:
    text, row = "ab c,d", [0.0, 1.0]
    spans = [None, (0, 1), (1, 2), (2, 4), (4, 5), (5, 6)]
    tokens = score_tokens(text, [9, 1, 2, 3, 4, 5], spans, [row] * 6, unk_token_id=5)
    assert [token.index for token in tokens] == [1, 2, 3, 4, 5]
    assert [token.is_subword for token in tokens] == [False, True, False, True, False]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_found_in_nothing(strategy: str) -> None:
    assert aggregate([], LABELS, strategy) == []
    assert aggregate(sure("O"), LABELS, strategy) == []


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"'last', must be one of none, simple, first"):
        check_strategy("last")
