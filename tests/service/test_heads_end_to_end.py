"""Every kind of classification head, from client to kernels and back, against transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.heads import SEQUENCE_HEADS, TEXTS, TOKEN_HEADS, make_head, oracle
from tests.service.test_end_to_end import Running, start, stop

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("heads")
    names = (*SEQUENCE_HEADS, *TOKEN_HEADS)
    for name in names:
        make_head(folder, name)
    running = await start(folder, names)
    yield running
    await stop(running)


@pytest.mark.parametrize("name", SEQUENCE_HEADS)
async def test_labels_are_those_of_transformers(running: Running, name: str) -> None:
    expected = oracle("text-classification", running.folder / name)(list(TEXTS), top_k=None)
    results = await running.client.classify(TEXTS, model=name)
    for labels, wanted in zip(results, expected, strict=True):
        assert [item.label for item in labels] == [item["label"] for item in wanted]
        assert [item.score for item in labels] == pytest.approx(
            [item["score"] for item in wanted], abs=1e-5
        )


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["simple", "average"])
@pytest.mark.parametrize("name", TOKEN_HEADS)
async def test_entities_are_those_of_transformers(
    running: Running, name: str, strategy: str
) -> None:
    pipeline = oracle("token-classification", running.folder / name)
    expected = pipeline(list(TEXTS), aggregation_strategy=strategy)
    results = await running.client.classify_tokens(TEXTS, model=name, aggregation_strategy=strategy)
    assert any(expected)
    for text, found, wanted in zip(TEXTS, results, expected, strict=True):
        # The service leaves out blanks around an entity; transformers has them.
        assert [(item.label, item.text) for item in found.entities] == [
            (item["entity_group"], text[item["start"] : item["end"]].strip()) for item in wanted
        ]
        assert [item.score for item in found.entities] == pytest.approx(
            [item["score"] for item in wanted], abs=1e-5
        )
