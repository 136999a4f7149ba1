"""The whole way, from client to kernels and back, against transformers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
import torch
import transformers
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec, ServerConfig
from phi3svc.engine.events import Completed, Delta, Finished, Started
from phi3svc.engine.process import EngineProcess
from phi3svc.errors import Unavailable
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from tests.model.checkpoints import make_tiny_causal, make_tiny_sequence, make_tiny_token

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAKERS = {"chat": make_tiny_causal, "mood": make_tiny_sequence, "names": make_tiny_token}
# Crosses the checkpoints' original length of 32 while it is answered.
PROMPT = "A prompt of 26 characters."


@dataclass(frozen=True)
class Running:
    client: Client
    server: Server
    engine: EngineProcess
    address: str
    folder: Path


async def start(folder: Path, names: tuple[str, ...]) -> Running:
    specs = tuple(ModelSpec(name, str(folder / name)) for name in names)
    address = f"unix:{folder}/{names[0]}-{len(names)}.sock"
    config = ServerConfig(models=specs, listen=(address,), engine=EngineConfig(num_threads=1))
    engine = EngineProcess(config.models_to_load(), config.engine)
    server = Server(config, engine)
    await server.bind()
    await server.start()
    return Running(Client.connect(address), server, engine, address, folder)


async def stop(running: Running) -> None:
    await running.client.close()
    await running.server.stop(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, make in MAKERS.items():
        make(folder / name)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(folder: Path) -> AsyncIterator[Running]:
    running = await start(folder, tuple(MAKERS))
    yield running
    await stop(running)


@dataclass(frozen=True)
class Answer:
    text: str
    token_ids: tuple[int, ...]
    num_deltas: int
    num_prompt_tokens: int
    digest: str


async def ask(client: Client, prompt: Any, **options: Any) -> Answer:
    text, ids, num_deltas, num_prompt_tokens, digest = "", [], 0, 0, ""
    kinds = []
    async for event in client.generate(prompt, wants_token_ids=True, **options):
        kinds.append(type(event))
        if isinstance(event, Delta):
            text += event.text
            ids += event.token_ids
            num_deltas += 1
        elif isinstance(event, Started):
            num_prompt_tokens = event.prompt_token_count
        elif isinstance(event, Finished):
            digest = event.digest
    assert kinds == [Started, *[Delta] * num_deltas, Finished, Completed]
    return Answer(text, tuple(ids), num_deltas, num_prompt_tokens, digest)


@torch.no_grad()
def greedy(folder: Path, prompt: str, num_tokens: int) -> list[int]:
    """What transformers decodes, one row, with its recomputation at the LongRoPE crossing."""
    model = transformers.Phi3ForCausalLM.from_pretrained(folder / "chat").eval()
    ids = torch.tensor([list(prompt.encode())])
    output = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, eos_token_id=None)
    return output[0, ids.shape[1] :].tolist()


async def test_greedy_tokens_are_those_of_transformers(running: Running) -> None:
    answer = await ask(running.client, PROMPT, max_new_tokens=20, temperature=0, ignore_eos=True)
    assert list(answer.token_ids) == greedy(running.folder, PROMPT, 20)


async def test_streamed_text_equals_unstreamed(running: Running) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "seed": 5}
    streamed = await ask(running.client, PROMPT, **options)
    at_once = await ask(running.client, PROMPT, coalesce_ms=1000, **options)
    assert at_once.num_deltas < streamed.num_deltas
    assert (streamed.text, streamed.token_ids) == (at_once.text, at_once.token_ids)
    assert streamed.digest == at_once.digest
    tokenizer = transformers.AutoTokenizer.from_pretrained(running.folder / "chat")
    assert streamed.text == tokenizer.decode(streamed.token_ids, skip_special_tokens=True)


async def test_parallel_streams_equal_their_lonely_runs(running: Running) -> None:
    def options(i: int) -> dict[str, Any]:
        return {"max_new_tokens": 20 + 3 * i, "temperature": 0.8 if i % 2 else 0, "seed": i}

    prompts = [f"Prompt {'x' * (5 * i)} number {i}" for i in range(8)]
    alone = [await ask(running.client, p, **options(i)) for i, p in enumerate(prompts)]
    together = await asyncio.gather(
        *(ask(running.client, p, **options(i)) for i, p in enumerate(prompts))
    )
    for one, other in zip(alone, together, strict=True):
        assert (one.text, one.token_ids, one.digest) == (other.text, other.token_ids, other.digest)


async def test_a_chat_turn_reaches_the_model_through_its_template(running: Running) -> None:
    rendered = "<|user|>Hi<|end|><|assistant|>"
    as_chat = await ask(running.client, [("user", "Hi")], max_new_tokens=8)
    as_prompt = await ask(running.client, rendered, max_new_tokens=8)
    assert as_chat.token_ids == as_prompt.token_ids


async def test_classification_is_that_of_transformers(running: Running) -> None:
    texts = ["A short text.", "Another one, somewhat longer than the original length allows."]
    folder = running.folder / "mood"
    model = transformers.Phi3ForSequenceClassification.from_pretrained(folder).eval()
    for text, labels in zip(texts, await running.client.classify(texts), strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([list(text.encode())])).logits[0].softmax(0)
        expected = {model.config.id2label[i]: p for i, p in enumerate(scores.tolist())}
        assert {item.label: item.score for item in labels} == pytest.approx(expected, abs=1e-5)
        assert [item.label for item in labels] == sorted(expected, key=expected.__getitem__)[::-1]


async def test_token_labels_are_those_of_transformers(running: Running) -> None:
    text = "Anna met Bob."
    folder = running.folder / "names"
    model = transformers.Phi3ForTokenClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        scores = model(torch.tensor([list(text.encode())])).logits[0].softmax(1)
    (found,) = await running.client.classify_tokens([text])
    assert [item.text for item in found.tokens] == list(text)
    assert [(item.start, item.end) for item in found.tokens] == [
        (i, i + 1) for i in range(len(text))
    ]
    best = scores.max(1)
    assert [item.label for item in found.tokens] == [
        model.config.id2label[i] for i in best.indices.tolist()
    ]
    assert [item.score for item in found.tokens] == pytest.approx(best.values.tolist(), abs=1e-5)


async def test_models_are_listed_with_what_they_can_do(running: Running) -> None:
    models = {model.name: model for model in await running.client.list_models()}
    assert list(models) == list(MAKERS)
    assert {name: set(model.tasks) for name, model in models.items()} == {
        "chat": {"generation"},
        "mood": {"sequence-classification"},
        "names": {"token-classification"},
    }
    assert models["mood"].labels == ("negative", "neutral", "positive")
    assert models["chat"].max_context_len == 512
    config = transformers.AutoConfig.from_pretrained(running.folder / "chat")
    assert models["chat"].vocab_size == config.vocab_size


async def test_a_killed_engine_is_unavailable_and_takes_health_down(folder: Path) -> None:
    running = await start(folder, ("chat",))
    try:
        stream = running.client.generate(PROMPT, max_new_tokens=480, ignore_eos=True)
        assert isinstance(await anext(stream), Started)
        assert running.engine.pid is not None
        os.kill(running.engine.pid, signal.SIGKILL)
        with pytest.raises(Unavailable):
            async for _ in stream:
                pass
        await asyncio.wait_for(running.server.wait_engine_dead(), 5)
        async with grpc.aio.insecure_channel(running.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            status = (await health.Check(health_pb2.HealthCheckRequest())).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        await stop(running)
