"""Several answers and log probabilities, from client to kernels and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec, ServerConfig
from phi3svc.engine.events import Completed, Delta, Finished, PromptLogprobs, Started, TopLogprobs
from phi3svc.engine.process import EngineProcess
from phi3svc.service.client import Client
from phi3svc.service.server import Server
from tests.model import oracle
from tests.model.checkpoints import make_tiny_causal
from tests.service.test_generate import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = [("user", "Tell me a story about a fox.")]
SAMPLED: dict[str, Any] = {"model": "demo", "temperature": 1.2, "seed": 11, "max_new_tokens": 48}


@dataclass(frozen=True)
class Running:
    client: Client
    engine: EngineProcess
    tiny: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """The embedded model, and a tiny random one in float32."""
    folder = tmp_path_factory.mktemp("sequences")
    tiny = make_tiny_causal(folder / "tiny")
    models = (ModelSpec("demo", "demo"), ModelSpec("tiny", str(tiny)))
    address = f"unix:{folder}/server.sock"
    config = ServerConfig(models=models, listen=(address,), engine=EngineConfig(num_threads=1))
    engine = EngineProcess(config.models_to_load(), config.engine)
    server = Server(config, engine)
    await server.bind()
    try:
        await server.start()
        async with Client.connect(address) as client:
            yield Running(client, engine, tiny)
    finally:
        await server.stop(0)


@dataclass
class Sequence:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)
    end: Finished | None = None


@dataclass
class Reply:
    sequences: dict[int, Sequence] = field(default_factory=dict)
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_top: list[TopLogprobs] = field(default_factory=list)


async def ask(client: Client, prompt: Any, **options: Any) -> Reply:
    """The whole stream, its grammar checked on the way."""
    reply = Reply()
    options = {"wants_token_ids": True, "wants_logprobs": True} | options
    events = [event async for event in client.generate(prompt, **options)]
    started, *middle, completed = events
    assert isinstance(started, Started)
    for event in middle:
        if isinstance(event, PromptLogprobs):
            assert not reply.sequences
            assert event.start == len(reply.prompt_logprobs) + 1
            reply.prompt_logprobs += event.logprobs
            reply.prompt_top += event.top
            continue
        assert isinstance(event, Delta | Finished)
        sequence = reply.sequences.setdefault(event.index, Sequence())
        assert sequence.end is None
        if isinstance(event, Finished):
            assert event.token_count == len(sequence.token_ids) == len(sequence.logprobs)
            sequence.end = event
        else:
            sequence.text += event.text
            sequence.token_ids += event.token_ids
            sequence.logprobs += event.logprobs
            sequence.top += event.top
    assert isinstance(completed, Completed)
    assert completed.completion_token_count == sum(
        len(sequence.token_ids) for sequence in reply.sequences.values()
    )
    assert all(sequence.end for sequence in reply.sequences.values())
    assert sorted(reply.sequences) == list(range(options.get("n", 1)))
    return reply


async def test_sampled_answers_differ_and_come_again(running: Running) -> None:
    first = await ask(running.client, STORY, n=4, **SAMPLED)
    assert len({sequence.text for sequence in first.sequences.values()}) == 4
    assert len({s.end.digest for s in first.sequences.values() if s.end}) == 4
    again = await ask(running.client, STORY, n=4, coalesce_ms=200, **SAMPLED)
    assert again == first
    more = await ask(running.client, STORY, n=6, **SAMPLED)
    assert {i: more.sequences[i] for i in range(4)} == first.sequences
    alone = await ask(running.client, STORY, **SAMPLED)
    assert alone.sequences[0] == first.sequences[0], "the digest included"


async def test_greedy_answers_are_all_that_of_one(running: Running) -> None:
    options: dict[str, Any] = {"model": "demo", "max_new_tokens": 20}
    alone = (await ask(running.client, STORY, **options)).sequences[0]
    several = await ask(running.client, STORY, n=3, **options)
    for sequence in several.sequences.values():
        assert (sequence.token_ids, sequence.logprobs) == (alone.token_ids, alone.logprobs)
        assert sequence.end is not None
        assert alone.end is not None
        assert sequence.end.digest == alone.end.digest


async def test_a_stop_string_of_one_answer_changes_no_other(running: Running) -> None:
    whole = (await ask(running.client, STORY, n=4, **SAMPLED)).sequences
    texts = [whole[i].text for i in range(4)]
    words = {i: text.split() for i, text in enumerate(texts)}
    index, stop = next(
        (i, word)
        for i in range(4)
        for word in words[i][5:-5]
        if not any(word in texts[j] for j in range(4) if j != i)
    )
    cut = (await ask(running.client, STORY, n=4, stop=[stop], **SAMPLED)).sequences
    for i in range(4):
        if i != index:
            assert (cut[i].text, cut[i].token_ids) == (texts[i], whole[i].token_ids)
    assert cut[index].text == texts[index].split(stop)[0]
    assert cut[index].end is not None
    assert cut[index].end.stop_string == stop
    num = len(cut[index].token_ids)
    assert 0 < num < len(whole[index].token_ids)
    assert cut[index].token_ids == whole[index].token_ids[:num]
    assert cut[index].logprobs == whole[index].logprobs[:num]


async def test_leaving_half_way_frees_every_answer(running: Running) -> None:
    stream = running.client.generate(STORY, n=16, **SAMPLED | {"ignore_eos": True})
    async with aclosing(stream) as events:
        async for event in events:
            if isinstance(event, Delta) and event.index == 15:
                break
    await until(lambda: not running.engine._streams)
    after = await ask(running.client, STORY, n=2, **SAMPLED)
    assert len(after.sequences) == 2


async def test_a_greedy_token_is_the_likeliest_and_has_its_log_probability(
    running: Running,
) -> None:
    reply = await ask(running.client, STORY, model="demo", top_logprobs=5, max_new_tokens=30)
    sequence = reply.sequences[0]
    assert len(sequence.top) == len(sequence.token_ids) > 10
    for token_id, logprob, top in zip(
        sequence.token_ids, sequence.logprobs, sequence.top, strict=True
    ):
        assert len(top.token_ids) == len(top.logprobs) == 5
        assert (top.token_ids[0], top.logprobs[0]) == (token_id, logprob)
        assert top.logprobs == sorted(top.logprobs, reverse=True)


@pytest.mark.parametrize("prompt_len", [2, 26, 60])
async def test_log_probabilities_are_those_of_transformers(
    running: Running, prompt_len: int
) -> None:
    """Below LongRoPE's original length of 32, across it while answering, and beyond."""
    prompt = [(7 * i + 3) % 256 for i in range(prompt_len)]
    options: dict[str, Any] = {"model": "tiny", "temperature": 0.9, "seed": 5, "ignore_eos": True}
    reply = await ask(
        running.client,
        prompt,
        n=2,
        max_new_tokens=10,
        top_logprobs=4,
        wants_prompt_logprobs=True,
        **options,
    )
    model = oracle.load(running.tiny)
    of_prompt = oracle.logits(model, prompt).log_softmax(-1)
    assert len(reply.prompt_logprobs) == len(reply.prompt_top) == prompt_len - 1
    for i, (logprob, top) in enumerate(zip(reply.prompt_logprobs, reply.prompt_top, strict=True)):
        check_place(of_prompt[i], prompt[i + 1], logprob, top)
    for sequence in reply.sequences.values():
        for i, token_id in enumerate(sequence.token_ids):
            expected = oracle.logits(model, prompt + sequence.token_ids[:i])[-1].log_softmax(-1)
            check_place(expected, token_id, sequence.logprobs[i], sequence.top[i])


def check_place(expected: torch.Tensor, token_id: int, logprob: float, top: TopLogprobs) -> None:
    """expected: [V] log probabilities in one place."""
    assert logprob == pytest.approx(float(expected[token_id]), abs=1e-4)
    best = expected.topk(4)
    assert top.logprobs == pytest.approx(best.values.tolist(), abs=1e-4)
    assert [float(expected[i]) for i in top.token_ids] == pytest.approx(top.logprobs, abs=1e-4)
    assert len(set(top.token_ids)) == 4


async def test_asking_for_more_changes_no_token(running: Running) -> None:
    plain = (await ask(running.client, STORY, n=2, **SAMPLED)).sequences
    full = await ask(
        running.client, STORY, n=2, top_logprobs=20, wants_prompt_logprobs=True, **SAMPLED
    )
    for index, sequence in plain.items():
        other = full.sequences[index]
        assert (other.token_ids, other.logprobs) == (sequence.token_ids, sequence.logprobs)
        assert other.end == sequence.end
