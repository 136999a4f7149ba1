"""Hundreds of random mixes: whatever runs beside a request, its bits are those of its run alone.

A mix draws requests from a pool, the steps at which they arrive, neighbours that are cancelled, and
the engine's settings: tokens per step, places to run, blocks (few force preemption), prefix cache,
guesses ahead and threads. Everything that an engine says of a request is compared: token ids,
log probabilities, those of the prompt and of the likeliest tokens.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from phi3svc import ops
from phi3svc.config.checkpoint import resolve_source
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import TokenEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import load_network
from phi3svc.model.phi3 import Phi3Network
from tests.engine.core_runs import Answer, answer_name, make_core, run
from tests.engine.requests import generate

NUM_MIXES = 80
POOL_SIZE = 40


def draw_request(name: str, generator: random.Random, network: Phi3Network) -> GenerateRequest:
    """Anything a client may ask; prompts share beginnings and lie around the LongRoPE boundary."""
    config = network.config
    vocab_size = min(config.vocab_size, 256)
    boundary = config.original_max_position_embeddings or 32
    beginning = [7 * i % vocab_size for i in range(generator.choice([0, 0, 20, boundary - 6]))]
    rest_len = generator.choice([1, 2, 3, 5, 16, 17, boundary - 5, boundary - 2, boundary + 2])
    prompt_ids = beginning + [generator.randrange(vocab_size) for _ in range(rest_len)]
    is_penalized = generator.random() < 0.3
    sampling = SamplingParams(
        temperature=generator.choice([0.0, 0.0, 0.4, 1.0, 1.6]),
        top_k=generator.choice([0, 0, 5, 40]),
        top_p=generator.choice([1.0, 0.9]),
        seed=generator.randrange(2**64),
        min_p=generator.choice([0.0, 0.05]),
        typical_p=generator.choice([1.0, 0.9]),
        repetition_penalty=1.2 if is_penalized else 1.0,
        presence_penalty=0.4 if is_penalized else 0.0,
        # A favoured few make an answer repeat itself, so that guesses come true.
        logit_bias=dict.fromkeys(prompt_ids[:3], 8.0) if generator.random() < 0.5 else {},
    )
    num_new = generator.randrange(1, 40)
    return generate(
        name,
        prompt_ids,
        num_new,
        sampling=sampling,
        stop_token_ids=generator.choice([(), (), (3, 5), tuple(range(0, vocab_size, 9))]),
        min_new_tokens=generator.choice([0, 0, num_new // 2]),
        n=generator.choice([1, 1, 1, 3]),
        num_top_logprobs=generator.choice([0, 0, 4]),
        want_prompt_logprobs=generator.random() < 0.3,
        tenant=generator.choice(["", "", "other"]),
    )


@dataclass
class Mix:
    """A core under random load; `answers` are complete but for what was cancelled."""

    core: EngineCore
    generator: random.Random
    answers: dict[str, Answer] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def run(self, requests: list[GenerateRequest]) -> None:
        waiting = list(requests)
        victim = self.generator.choice([None, None, requests[0]])
        while waiting or self.core.has_work:
            while waiting and (not self.core.has_work or self.generator.random() < 0.3):
                self._add(waiting.pop())
            if victim is not None and self.generator.random() < 0.05:
                self.core.cancel(victim.request_id)
                self.cancelled |= {answer_name(victim.request_id, i) for i in range(victim.n)}
                waiting = [request for request in waiting if request is not victim]
                victim = None
            if self.core.has_work:
                self._step()

    def _add(self, request: GenerateRequest) -> None:
        for index in range(request.n):
            self.answers[answer_name(request.request_id, index)] = Answer()
        self.core.add(request)

    def _step(self) -> None:
        for event in self.core.step():
            index = event.index if isinstance(event, TokenEvent) else 0
            self.answers[answer_name(event.request_id, index)].take(event)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    num_threads = ops.num_threads()
    yield
    ops.set_num_threads(num_threads)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("name", ["tiny-float32", "tiny-bfloat16", "demo-float32", "demo-bfloat16"])
def test_no_mix_changes_a_bit(name: str, kv_dtype: str, request: pytest.FixtureRequest) -> None:
    source, dtype = name.split("-")
    path: Path = (
        resolve_source("demo").path if source == "demo" else request.getfixturevalue(source)
    )
    network = load_network(path, dtype)
    generator = random.Random(f"{name} {kv_dtype}")
    pool = [draw_request(f"r{i}", generator, network) for i in range(POOL_SIZE)]
    alone: dict[str, Answer] = {}
    for lone in pool:
        core = make_core(network, max_draft_tokens=0, prefix_cache=False, kv_dtype=kv_dtype)
        alone |= run(core, [lone])
    seen: Counter[str] = Counter()
    for number in range(NUM_MIXES):
        num_threads = generator.choice([1, 2])
        ops.set_num_threads(num_threads)
        chosen = generator.sample(pool, generator.randrange(2, 9))
        longest = max(len(r.prompt_ids) + r.max_new_tokens for r in chosen)
        few_blocks = longest // ops.PAGE_SIZE + 2
        settings = {
            "max_step_tokens": generator.choice([1, 2, 5, 16, 33, 64, 512]),
            "max_sequences": generator.choice([1, 3, 256]),
            "num_blocks": generator.choice([few_blocks, few_blocks, 512]),
            "kv_dtype": kv_dtype,
            "prefix_cache": generator.random() < 0.7,
            "max_draft_tokens": generator.choice([0, 3, 8]),
        }
        mix = Mix(make_core(network, **settings), generator)
        mix.run(chosen)
        for answer_id, answer in mix.answers.items():
            if answer_id in mix.cancelled:
                continue
            assert answer == alone[answer_id], f"mix {number}, {answer_id}: {settings}"
            seen["answers"] += 1
            seen["preempted"] += answer.num_preemptions > 0
            seen["cached"] += answer.num_cached_prompt_tokens > 0
            seen["guessed right"] += answer.num_accepted > 0
        seen[f"{num_threads} threads"] += 1
        seen["cancelled"] += len(mix.cancelled)
    crossing = network.config.original_max_position_embeddings or 0
    seen["crossing"] = sum(
        len(r.prompt_ids) <= crossing < len(r.prompt_ids) + len(alone[r.request_id].token_ids)
        for r in pool
    )
    kinds = "preempted", "cached", "guessed right", "1 threads", "2 threads", "cancelled"
    assert all(seen[kind] > 3 for kind in (*kinds, "crossing")), seen
    assert seen["answers"] > 4 * NUM_MIXES
