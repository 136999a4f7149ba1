"""The token-classification pipeline against transformers', for every strategy and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi3svc import pipeline
from phi3svc.config.checkpoint import EMBEDDED_DIR
from phi3svc.errors import InvalidRequest
from phi3svc.text.entities import STRATEGIES
from tests.api.pipelines import (
    BACKENDS,
    VOCAB_SIZE,
    assert_same,
    ours_and_theirs,
    write_tokenizer,
)
from tests.heads import ENTITY_LABELS, TOKEN_HEADS, make_head, oracle
from tests.model.checkpoints import make_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")

TEXTS = [
    "The quick fox, and the lazy dog's dog (fox).",
    " Grüße aus Köln: naïve café!",
    "你好世界 👍🏽 and 👨‍👩‍👧 stop\n\nThen  stop",
]


def make(folder: Path, backend: str, **settings: Any) -> Path:
    path = folder / backend
    make_checkpoint(
        path,
        "Phi3ForTokenClassification",
        labels=ENTITY_LABELS,
        vocab_size=VOCAB_SIZE,
        initializer_range=0.3,
    )
    return write_tokenizer(path, backend, **settings)


@pytest.fixture(scope="module", params=BACKENDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    path = make(tmp_path_factory.mktemp("tokens"), request.param)
    return ours_and_theirs("token-classification", path)


@pytest.mark.parametrize("strategy", [*STRATEGIES, None])
def test_entities_of_every_tokenizer(pair: tuple[Any, Any], strategy: str | None) -> None:
    ours, theirs = pair
    expected = theirs(TEXTS, aggregation_strategy=strategy)
    assert any(expected)
    assert_same(ours(TEXTS, aggregation_strategy=strategy), expected)


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_other_labels_can_be_left_out(pair: tuple[Any, Any], strategy: str) -> None:
    ours, theirs = pair
    for ignored in ([], ["O", "PER", "I-PER"]):
        settings = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        assert_same(ours(TEXTS[0], **settings), theirs(TEXTS[0], **settings))


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_entities_of_every_head(tmp_path: Path, name: str) -> None:
    if name == "old-names":
        make_head(tmp_path, "with-bias")  # what the oracle reads
    path = make_head(tmp_path, name)
    text = "Anna met Bob in Köln."
    expected = oracle("ner", path)(text, aggregation_strategy="simple")
    assert_same(pipeline("ner", path)(text, aggregation_strategy="simple"), expected)


@pytest.mark.parametrize("backend", ["byte-fallback", "with-bos"])
def test_long_texts_are_cut_or_read_in_windows(tmp_path: Path, backend: str) -> None:
    path = make(tmp_path, backend, model_max_length=12)
    ours, theirs = ours_and_theirs("ner", path, aggregation_strategy="simple")
    text = " ".join(TEXTS)
    assert_same(ours(text), theirs(text))
    for stride in (0, 3, 8):
        expected = theirs(text, stride=stride)
        assert expected[-1]["end"] > 60
        assert_same(ours(text, stride=stride), expected)


def test_windows_must_move_on(tmp_path: Path) -> None:
    path = make(tmp_path, "with-bos", model_max_length=12)
    ours = pipeline("ner", path, aggregation_strategy="simple")
    with pytest.raises(InvalidRequest, match="stride: 11 in windows of 12 tokens, must be 0 to 10"):
        ours(TEXTS[0], stride=11)


def test_batches_change_no_bit(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    alone = [ours(text) for text in TEXTS]
    assert ours(TEXTS * 2, batch_size=4) == alone * 2


def test_the_embedded_model_finds_what_transformers_finds_with_it() -> None:
    ours, theirs = ours_and_theirs("ner", EMBEDDED_DIR / "demo-entities")
    text = "Maria Lopez flew to Oslo on 3 May 2024."
    for strategy in STRATEGIES:
        expected = theirs(text, aggregation_strategy=strategy)
        assert_same(ours(text, aggregation_strategy=strategy), expected)
    found = pipeline("ner")(text, aggregation_strategy="simple")
    assert [item["word"] for item in found] == ["Maria Lopez", "Oslo", "3 May 2024"]


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (["a", 3], {}, "inputs: has a int, must be texts"),
        ({"text": "a"}, {}, "inputs: a dict, must be a text"),
        ("", {}, "inputs: a text without tokens"),
        ("a", {"aggregation_strategy": "last"}, "aggregation_strategy: 'last', must be one of"),
        ("a", {"ignore_labels": "O"}, "ignore_labels: 'O', must be a list"),
        ("a", {"is_split_into_words": True}, "is_split_into_words: no setting"),
        ("a", {"stride": 12}, "stride: 12, must be 0 to 11"),
        ("a", {"stride": 2}, "stride: given with aggregation_strategy"),
    ],
)
def test_what_cannot_be_done_is_named(
    tmp_path: Path, inputs: Any, settings: dict[str, Any], message: str
) -> None:
    ours = pipeline("ner", make(tmp_path, "byte-level", model_max_length=12))
    with pytest.raises(InvalidRequest, match=message):
        ours(inputs, **settings)


def test_windows_need_a_length(tmp_path: Path) -> None:
    ours = pipeline("ner", make(tmp_path, "byte-level"), aggregation_strategy="simple")
    with pytest.raises(InvalidRequest, match="stride: given, and the tokenizer has no greatest"):
        ours("a", stride=2)
