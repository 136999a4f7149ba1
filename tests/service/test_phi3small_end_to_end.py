"""Phi-3-small over gRPC, from a folder as the hub has it: with a .tiktoken vocabulary."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec, ServerConfig
from phi3svc.engine.events import Delta, Finished
from phi3svc.engine.process import EngineProcess
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from tests.model.small_checkpoints import make_small_checkpoint
from tests.model.small_oracle import SmallOracle

pytestmark = pytest.mark.asyncio(loop_scope="module")

MERGED = (b"he", b"ll", b"hell", b"hello")
NUM_RANKS = 256 + len(MERGED)
# The special tokens keep their order behind the ranks.
END_OF_TEXT, USER, ASSISTANT, END = (NUM_RANKS + i for i in (1, 6, 7, 10))
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def write_tiktoken(path: Path) -> None:
    tokens = [*(bytes([i]) for i in range(256)), *MERGED]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (path / "cl100k_base.tiktoken").write_bytes(b"".join(lines))
    (path / "tokenizer.json").unlink()
    settings = {
        "tokenizer_class": "Phi3SmallTokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def make(path: Path, **overrides: Any) -> Path:
    make_small_checkpoint(
        path,
        original=32,
        vocab_size=NUM_RANKS + 96,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TEXT,
        **overrides,
    )
    write_tiktoken(path)
    return path


@dataclass(frozen=True)
class Running:
    client: Client
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("small")
    models = (
        ModelSpec("chat", str(make(folder / "chat"))),
        ModelSpec("mood", str(make(folder / "mood", num_labels=3))),
    )
    address = f"unix:{folder}/server.sock"
    config = ServerConfig(models=models, listen=(address,), engine=EngineConfig(num_threads=1))
    server = Server(config, EngineProcess(config.models_to_load(), config.engine))
    await server.bind()
    await server.start()
    client = Client.connect(address)
    yield Running(client, folder)
    await client.close()
    await server.stop(0)


async def ask(client: Client, prompt: Any, **options: Any) -> tuple[str, list[int], str]:
    """Text, token ids and digest."""
    text, ids, digest = "", [], ""
    async for event in client.generate(prompt, wants_token_ids=True, **options):
        if isinstance(event, Delta):
            text += event.text
            ids += event.token_ids
        elif isinstance(event, Finished):
            digest = event.digest
    return text, ids, digest


async def test_a_chat_goes_through_template_and_vocabulary(running: Running) -> None:
    ids = await running.client.tokenize([("user", "hello!")], model="chat")
    hello = 256 + MERGED.index(b"hello")
    newline = ord("\n")
    expected = [END_OF_TEXT, USER, newline, hello, ord("!"), END, newline, ASSISTANT, newline]
    assert ids == expected


async def test_greedy_tokens_are_those_of_a_dense_computation(running: Running) -> None:
    """From before the original length of LongRoPE to beyond the local blocks."""
    prompt = [7 * i % 256 for i in range(28)]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    _, ids, _ = await ask(running.client, prompt, **options)
    assert ids == SmallOracle(running.folder / "chat").greedy(prompt, 24)


async def test_parallel_streams_equal_their_lonely_runs(running: Running) -> None:
    prompts = [[i, *range(10 * i + 3)] for i in range(8)]
    options = [{"max_new_tokens": 20 + i, "temperature": 1.0, "seed": i} for i in range(8)]
    pairs = list(zip(prompts, options, strict=True))
    alone = [await ask(running.client, prompt, **option) for prompt, option in pairs]
    together = await asyncio.gather(*(ask(running.client, p, **option) for p, option in pairs))
    assert together == alone


async def test_classification(running: Running) -> None:
    text = "hello, this text is longer than the original length"
    (labels,) = await running.client.classify([text], model="mood")
    ids = await running.client.tokenize(text, model="mood")
    scores = SmallOracle(running.folder / "mood").scores(ids)[-1].softmax(0).tolist()
    expected = {f"LABEL_{i}": score for i, score in enumerate(scores)}
    assert {item.label: item.score for item in labels} == pytest.approx(expected, abs=1e-5)
