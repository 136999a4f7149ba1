"""The embedded models through the whole service, as `phi3svc demo` uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from phi3svc.config.checkpoint import EMBEDDED_DIR
from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import Phi3Config
from phi3svc.config.server import ServerConfig
from phi3svc.engine.process import EngineProcess
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from tests.service.test_end_to_end import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    address = f"unix:{tmp_path_factory.mktemp('embedded')}/server.sock"
    config = ServerConfig(listen=(address,), engine=EngineConfig(num_threads=1))
    server = Server(config, EngineProcess(config.models_to_load(), config.engine))
    await server.bind()
    try:
        await server.start()
        async with Client.connect(address) as client:
            yield client
    finally:
        await server.stop(0)


async def test_a_conversation_streams_and_crosses_longrope(client: Client) -> None:
    """The last answer begins below the model's original length and ends beyond."""
    original_len = Phi3Config.from_dir(EMBEDDED_DIR / "demo").original_max_position_embeddings
    turns = [("user", "Hello! Who are you?")]
    first = await ask(client, turns, seed=3)
    turns += [("assistant", first.text), ("user", "Tell me a story about a fox.")]
    second = await ask(client, turns, seed=3)
    assert first.text.endswith((".", "!", "?"))
    assert "fox" in second.text
    assert second.num_deltas > 5
    options: dict[str, Any] = {"seed": 3, "ignore_eos": True, "max_new_tokens": original_len}
    crossing = await ask(client, turns, **options)
    num_tokens = crossing.num_prompt_tokens + len(crossing.token_ids)
    assert crossing.num_prompt_tokens <= original_len < num_tokens
    whole = await ask(client, turns, **options, coalesce_ms=500)
    assert (whole.text, whole.token_ids, whole.digest) == (
        crossing.text,
        crossing.token_ids,
        crossing.digest,
    )


async def test_eight_streams_at_once_equal_each_alone(client: Client) -> None:
    animals = ["fox", "cat", "dog", "bear", "owl", "horse", "mouse", "frog"]

    async def story(i: int, animal: str) -> Answer:
        options: dict[str, Any] = {"seed": i, "temperature": 0.0 if i % 2 else 1.0}
        return await ask(client, [("user", f"Tell me a story about a {animal}.")], **options)

    alone = [await story(i, animal) for i, animal in enumerate(animals)]
    together = await asyncio.gather(*(story(i, animal) for i, animal in enumerate(animals)))
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.digest for a in together] == [a.digest for a in alone]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The soup was excellent and the waiter was friendly.", "positive"),
        ("This was a wonderful hotel and I loved it.", "positive"),
        ("The food was terrible.", "negative"),
        ("The room was not clean.", "negative"),
    ],
)
async def test_sentiment_is_right(client: Client, text: str, label: str) -> None:
    (labels,) = await client.classify([text])
    assert labels[0].label == label
    assert labels[0].score > 0.8
    assert sum(item.score for item in labels) == pytest.approx(1)


async def test_a_batch_of_texts_scores_as_each_alone(client: Client) -> None:
    texts = ["The food was terrible.", "I loved it.", "The room was not clean."] * 5
    together = await client.classify(texts)
    alone = [(await client.classify([text]))[0] for text in texts]
    assert together == alone


async def test_entities_are_found_with_their_characters(client: Client) -> None:
    text = "Maria Lopez of Nordwind Systems flew to Oslo on 3 May 2024."
    (found,) = await client.classify_tokens([text])
    entities = [(item.label, item.text) for item in found.entities]
    assert entities == [
        ("PER", "Maria Lopez"),
        ("ORG", "Nordwind Systems"),
        ("LOC", "Oslo"),
        ("DATE", "3 May 2024"),
    ]
    assert all(text[item.start : item.end] == item.text for item in found.entities)
