"""Labels of texts and tokens; how several texts share the engine; what happens on failure."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

from phi3svc.engine.async_engine import ModelInfo
from phi3svc.engine.request import ClassifyRequest, Request
from phi3svc.errors import InvalidRequest, PromptTooLong, Unavailable, UnsupportedTask
from phi3svc.service import classification
from phi3svc.service.client_messages import Span
from phi3svc.text.entities import STRATEGIES
from phi3svc.v1 import classification_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import CONTEXT_LEN, FakeEngine, ids_of
from tests.service.test_generate import until

TOP = math.exp(4) / (math.exp(4) + 2)


async def test_labels_come_best_first_with_probabilities(harness: Harness) -> None:
    (labels,) = await harness.client.classify(["a++"])
    total = math.exp(2) + math.exp(0.5) + 1
    assert [item.label for item in labels] == ["positive", "neutral", "negative"]
    assert [item.score for item in labels] == pytest.approx(
        [math.exp(2) / total, math.exp(0.5) / total, 1 / total]
    )


async def test_equal_scores_keep_the_models_order(harness: Harness) -> None:
    async def tie(engine: FakeEngine, request: Request) -> None:
        engine.score(request, [[1.0, 1.0, 1.0]])

    harness.engine.script = tie
    (labels,) = await harness.client.classify(["a"])
    assert [item.label for item in labels] == ["negative", "neutral", "positive"]


@pytest.mark.parametrize("name", ["to_classification", "to_token_classification"])
async def test_labels_are_made_off_the_event_loop(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    threads = set()
    real = getattr(classification, name)

    def watched(*args: Any) -> Any:
        threads.add(threading.current_thread())
        return real(*args)

    monkeypatch.setattr(classification, name, watched)
    await harness.client.classify(["a"])
    await harness.client.classify_tokens(["a"])
    assert threads
    assert threading.main_thread() not in threads


async def test_results_keep_the_order_of_texts_whatever_the_engine_does(harness: Harness) -> None:
    async def backwards(engine: FakeEngine, request: Request) -> None:
        length = len(request.prompt_ids)
        await asyncio.sleep((40 - length) / 1000)
        engine.score(request, [[float(length), 0.0, 0.0]])

    harness.engine.script = backwards
    texts = ["x" * length for length in range(1, 40)]
    results = await harness.client.classify(texts)
    negatives = [{item.label: item.score for item in labels}["negative"] for labels in results]
    expected = [math.exp(n) / (math.exp(n) + 2) for n in range(1, 40)]
    assert negatives == pytest.approx(expected)


async def test_many_texts_do_not_flood_the_engine(harness: Harness) -> None:
    most = 0

    async def observe(engine: FakeEngine, request: Request) -> None:
        nonlocal most
        most = max(most, engine.num_open)
        await asyncio.sleep(0.001)
        engine.score(request, [[0.0, 0.0, 0.0]])

    harness.engine.script = observe
    assert len(await harness.client.classify(["a"] * 256)) == 256
    assert 1 < most <= 32


async def test_tokens_and_entities_have_their_characters(harness: Harness) -> None:
    (found,) = await harness.client.classify_tokens(["hi BOB, é AL"])
    assert [token.text for token in found.tokens] == list("hi BOB, é AL")
    assert [(token.start, token.end) for token in found.tokens] == [(i, i + 1) for i in range(12)]
    assert [token.label for token in found.tokens][3:6] == ["B-NAME", "I-NAME", "I-NAME"]
    assert all(token.score == pytest.approx(TOP) for token in found.tokens)
    assert found.entities == (
        Span("NAME", pytest.approx(TOP), "BOB", 3, 6),
        Span("NAME", pytest.approx(TOP), "AL", 10, 12),
    )
    request = harness.engine.requests[-1]
    assert isinstance(request, ClassifyRequest)
    assert request.per_token
    assert request.prompt_ids == ids_of("hi BOB, é AL")


async def test_a_word_has_one_label_if_the_strategy_says_so(harness: Harness) -> None:
    by_strategy = {
        strategy: [
            (item.label, item.text)
            for (found,) in [
                await harness.client.classify_tokens(["oBOo A"], aggregation_strategy=strategy)
            ]
            for item in found.entities
        ]
        for strategy in STRATEGIES
    }
    # The fake model takes capitals for names, and is as sure of one label as of another.
    assert by_strategy == {
        "none": [("B-NAME", "B"), ("I-NAME", "O"), ("B-NAME", "A")],
        "simple": [("NAME", "BO"), ("NAME", "A")],
        "first": [("NAME", "A")],
        "average": [("NAME", "A")],
        "max": [("NAME", "A")],
    }


async def test_simple_is_the_default_strategy(harness: Harness) -> None:
    request = classification_service_pb2.ClassifyTokensRequest(texts=["oBOo"])
    response = await harness.classification.ClassifyTokens(request)
    assert [entity.text for entity in response.results[0].entities] == ["BO"]


async def test_an_unknown_strategy_is_refused(harness: Harness) -> None:
    request = classification_service_pb2.ClassifyTokensRequest(texts=["a"], aggregation_strategy=9)
    with pytest.raises(grpc.aio.AioRpcError, match="aggregation_strategy: 9, must be 0 to 5"):
        await harness.classification.ClassifyTokens(request)
    with pytest.raises(InvalidRequest, match="aggregation_strategy: 'last', must be one of none"):
        await harness.client.classify_tokens(["a"], aggregation_strategy="last")


async def test_a_text_without_entities_has_none(harness: Harness) -> None:
    (found,) = await harness.client.classify_tokens(["nobody"])
    assert found.entities == ()
    assert len(found.tokens) == 6


async def test_texts_beyond_the_context_are_named_with_numbers(harness: Harness) -> None:
    texts = ["ok", "x" * (CONTEXT_LEN + 3), "x" * CONTEXT_LEN, "x" * (CONTEXT_LEN + 1)]
    with pytest.raises(PromptTooLong) as caught:
        await harness.client.classify(texts)
    assert [v.field for v in caught.value.violations] == ["texts[1]", "texts[3]"]
    assert caught.value.sizes == {"prompt_token_count": 67, "max_context_token_count": CONTEXT_LEN}
    assert harness.engine.requests == []


async def test_the_wrong_kind_of_model_is_refused(harness: Harness) -> None:
    with pytest.raises(UnsupportedTask, match="'names' cannot do sequence-classification"):
        await harness.client.classify(["a"], model="names")
    with pytest.raises(UnsupportedTask, match="'chat' cannot do token-classification"):
        await harness.client.classify_tokens(["a"], model="chat")


async def test_an_ambiguous_model_must_be_named(launch: Any, infos: list[ModelInfo]) -> None:

    harness = await launch([infos[1], dataclasses.replace(infos[1], name="mood2")])
    with pytest.raises(InvalidRequest, match="model: empty, must be one of mood, mood2"):
        await harness.client.classify(["a"])


async def test_engine_death_ends_the_call_and_every_text_of_it(harness: Harness) -> None:
    async def silence(engine: FakeEngine, request: Request) -> None:
        await asyncio.Event().wait()

    harness.engine.script = silence
    call = asyncio.create_task(harness.client.classify(["a"] * 40))
    await until(lambda: harness.engine.num_open == 32)
    harness.engine.die()
    with pytest.raises(Unavailable):
        await call
    assert harness.engine.num_open == 0


async def test_cancelling_frees_every_text(harness: Harness) -> None:
    async def silence(engine: FakeEngine, request: Request) -> None:
        await asyncio.Event().wait()

    harness.engine.script = silence
    request = classification_service_pb2.ClassifyRequest(texts=["a"] * 40)
    call = harness.classification.Classify(request)
    await until(lambda: harness.engine.num_open == 32)
    call.cancel()
    await until(lambda: harness.engine.num_open == 0)
    assert len(harness.engine.cancelled) == 32


async def test_a_deadline_frees_every_text(harness: Harness) -> None:
    async def silence(engine: FakeEngine, request: Request) -> None:
        await asyncio.Event().wait()

    harness.engine.script = silence
    request = classification_service_pb2.ClassifyRequest(texts=["a"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.classification.Classify(request, timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: harness.engine.num_open == 0)
