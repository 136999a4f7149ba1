"""The text-classification pipeline against transformers', for every kind of head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi3svc.errors import InvalidRequest
from tests.api.pipelines import assert_same, ours_and_theirs
from tests.heads import SEQUENCE_HEADS, TEXTS, make_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for name in SEQUENCE_HEADS:
        make_head(folder, name)
    return folder


@pytest.fixture(scope="module", params=SEQUENCE_HEADS)
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[Any, Any]:
    return ours_and_theirs("text-classification", folder / request.param)


@pytest.fixture(scope="module")
def exclusive(folder: Path) -> tuple[Any, Any]:
    return ours_and_theirs("sentiment-analysis", folder / "exclusive")


@pytest.mark.parametrize("settings", [{}, {"top_k": None}, {"top_k": 1}, {"top_k": 2}])
@pytest.mark.parametrize("inputs", [TEXTS[0], list(TEXTS)], ids=["one", "list"])
def test_labels_of_every_head(
    pair: tuple[Any, Any], inputs: str | list[str], settings: dict[str, Any]
) -> None:
    ours, theirs = pair
    assert_same(ours(inputs, **settings), theirs(inputs, **settings))


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "none", "SOFTMAX", None])
def test_the_function_of_the_model_can_be_replaced(pair: tuple[Any, Any], name: str | None) -> None:
    ours, theirs = pair
    settings = {"top_k": None, "function_to_apply": name}
    assert_same(ours(TEXTS[0], **settings), theirs(TEXTS[0], **settings))


def test_settings_of_the_pipeline_are_those_of_every_call(folder: Path) -> None:
    settings: dict[str, Any] = {"top_k": 2, "function_to_apply": "none"}
    ours, theirs = ours_and_theirs("text-classification", folder / "exclusive", **settings)
    for inputs in (TEXTS[0], list(TEXTS)):
        assert_same(ours(inputs), theirs(inputs))
        assert_same(ours(inputs, top_k=3), theirs(inputs, top_k=3))


def test_a_text_in_a_dict_is_one(exclusive: tuple[Any, Any]) -> None:
    ours, theirs = exclusive
    item = {"text": TEXTS[0]}
    assert_same(ours(item), theirs(item))
    assert_same(ours([item, item]), theirs([item, item]))


def test_texts_are_cut_where_truncation_says(exclusive: tuple[Any, Any]) -> None:
    ours, theirs = exclusive
    text = TEXTS[1] * 20  # more than the 512 tokens of the model
    for settings in ({"max_length": 7}, {}):
        cut = {"truncation": True, "top_k": None, **settings}
        assert_same(ours(text, **cut), theirs(text, **cut))
    assert ours(text, truncation=True, max_length=7) == ours(text[:7])


@pytest.mark.parametrize("batch_size", [2, 8])
def test_batches_change_no_bit(exclusive: tuple[Any, Any], batch_size: int) -> None:
    ours, _ = exclusive
    texts = [*TEXTS, "Short.", *TEXTS]
    alone = [ours(text, top_k=None) for text in texts]
    assert ours(texts, top_k=None, batch_size=batch_size) == alone


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        ({"text": "a", "text_pair": "b"}, {}, "text_pair: given"),
        ([["a", "b"]], {}, "inputs: has a list, must be texts"),
        (["a", ""], {}, "inputs: a text without tokens"),
        (7, {}, "inputs: a int, must be a text"),
        ("a" * 600, {}, "600"),
        ("a", {"top_k": 0}, "top_k: 0, must be a whole number of 1 to"),
        ("a", {"function_to_apply": "tanh"}, "function_to_apply: 'tanh', must be one of sigmoid"),
        ("a", {"truncation": "longest"}, "truncation: 'longest', must be True or False"),
        ("a", {"topk": 3}, "topk: no setting of this pipeline"),
        ("a", {"batch_size": 0}, "batch_size: 0, must be a whole number of 1 to"),
    ],
)
def test_what_cannot_be_done_is_named(
    exclusive: tuple[Any, Any], inputs: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        exclusive[0](inputs, **settings)
