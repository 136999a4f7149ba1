"""Hundreds of random mixes: whatever runs beside a request, its bits are those of its run alone.

A mix draws requests from a pool, the steps at which they arrive, neighbours that are cancelled, and
the engine's settings: tokens per step, places to run, blocks (few force preemption), prefix cache,
guesses ahead and threads. Everything that an engine says of a request is compared: token ids,
log probabilities, those of the prompt and of the likeliest tokens, scores. What was cancelled must
have got the beginning of that.
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
from phi3svc.engine.request import GenerateRequest, Request, SamplingParams
from phi3svc.model.network import Network
from tests.devices import BACKEND
from tests.engine.core_runs import Answer, answer_name, make_core, run
from tests.engine.requests import classify, generate
from tests.networks import load_network

KV_DTYPES = {"cpu": ["auto", "int8"], "cuda": ["auto", "fp8"]}[BACKEND]
# On CUDA every mix begins by recording anew what it computes with, for longer than it computes.
NUM_MIXES = {"cpu": 80, "cuda": 40}[BACKEND]
POOL_SIZE = 40


def draw_request(name: str, generator: random.Random, network: Network) -> Request:
    """Anything a client may ask; prompts share beginnings and lie around the LongRoPE boundary."""
    config = network.config
    vocab_size = min(config.vocab_size, 256)
    boundary = config.original_max_position_embeddings or 32
    beginning = [7 * i % vocab_size for i in range(generator.choice([0, 0, 20, boundary - 6]))]
    rest_len = generator.choice([1, 2, 3, 5, 16, 17, boundary - 5, boundary - 2, boundary + 2])
    prompt_ids = beginning + [generator.randrange(vocab_size) for _ in range(rest_len)]
    task = generator.choice(sorted(network.heads))
    if task != "generation" and generator.random() < 0.5:
        return classify(name, prompt_ids, per_token=task == "token-classification")
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
    """A core under random load; `answers` are complete but for what was cancelled.

    One request of some mixes is cancelled as it runs, or one of its answers.
    """

    core: EngineCore
    generator: random.Random
    answers: dict[str, Answer] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def run(self, requests: list[Request]) -> None:
        waiting = list(requests)
        victim = self.generator.choice([None, *requests])
        while waiting or self.core.has_work:
            while waiting and (not self.core.has_work or self.generator.random() < 0.3):
                self._add(waiting.pop())
            is_there = victim is not None and victim.request_id in self.answers
            if victim is not None and is_there and self.generator.random() < 0.1:
                self._cancel(victim)
                victim = None
            if self.core.has_work:
                self._step()

    def _add(self, request: Request) -> None:
        for index in range(num_answers(request)):
            self.answers[answer_name(request.request_id, index)] = Answer()
        self.core.add(request)

    def _cancel(self, request: Request) -> None:
        indices = range(num_answers(request))
        index = self.generator.choice([None, *indices])
        self.core.cancel(request.request_id, index)
        self.cancelled |= {
            answer_name(request.request_id, i) for i in indices if index in (None, i)
        }

    def _step(self) -> None:
        for event in self.core.step():
            index = event.index if isinstance(event, TokenEvent) else 0
            answer_id = answer_name(event.request_id, index)
            assert answer_id not in self.cancelled
            self.answers[answer_id].take(event)


def num_answers(request: Request) -> int:
    return request.n if isinstance(request, GenerateRequest) else 1


def is_beginning(part: Answer, whole: Answer) -> bool:
    return (
        part.failure is None
        and part.finish in (None, whole.finish)
        and part.scores in (None, whole.scores)
        and part.token_ids == whole.token_ids[: len(part.token_ids)]
        and part.logprobs == whole.logprobs[: len(part.logprobs)]
        and part.top == whole.top[: len(part.top)]
        and part.prompt_logprobs == whole.prompt_logprobs[: len(part.prompt_logprobs)]
        and part.prompt_top == whole.prompt_top[: len(part.prompt_top)]
    )


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    num_threads = ops.num_threads()
    yield
    ops.set_num_threads(num_threads)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "source", ["demo", "small", "sequence-classification", "token-classification"]
)
def test_no_mix_changes_a_bit(
    source: str, dtype: str, kv_dtype: str, small: Path, two_headed: dict[str, Path]
) -> None:
    """The classifiers are random, have grouped queries, and generate as well."""
    paths = {"demo": resolve_source("demo").path, "small": small, **two_headed}
    path = paths[source]
    network = load_network(path, dtype)
    generator = random.Random(f"{source} {dtype} {kv_dtype}")
    pool = [draw_request(f"r{i}", generator, network) for i in range(POOL_SIZE)]
    alone: dict[str, Answer] = {}
    ops.set_num_threads(1)
    for lone in pool:
        core = make_core(network, max_draft_tokens=0, prefix_cache=False, kv_dtype=kv_dtype)
        alone |= run(core, [lone])
    boundary = network.config.original_max_position_embeddings or 0
    crossing = {  # a token beyond the boundary was computed behind one that was not
        answer_name(r.request_id, index)
        for r in pool
        for index in range(num_answers(r))
        if len(r.prompt_ids)
        <= boundary
        < len(r.prompt_ids) + len(alone[answer_name(r.request_id, index)].token_ids) - 1
    }
    seen: Counter[str] = Counter()
    for number in range(NUM_MIXES):
        num_threads = generator.choice([1, 2])
        ops.set_num_threads(num_threads)
        chosen = generator.sample(pool, generator.randrange(2, 9))
        longest = max(
            len(r.prompt_ids) + (r.max_new_tokens if isinstance(r, GenerateRequest) else 0)
            for r in chosen
        )
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
            where = f"mix {number}, {answer_id}: {settings}"
            if answer_id in mix.cancelled:
                assert is_beginning(answer, alone[answer_id]), where
                seen["cancelled"] += bool(answer.token_ids)
                continue
            assert answer == alone[answer_id], where
            seen["answers"] += 1
            seen["preempted"] += answer.num_preemptions > 0
            seen["cached"] += answer.num_cached_prompt_tokens > 0
            seen["guessed right"] += answer.num_accepted > 0
            seen["scored"] += answer.scores is not None
            seen["crossing"] += answer_id in crossing
        seen[f"{num_threads} threads"] += 1
    kinds = {"preempted", "cached", "guessed right", "1 threads", "2 threads", "cancelled"}
    kinds |= {"crossing"} if source in ("demo", "small") else {"crossing", "scored"}
    assert all(seen[kind] > NUM_MIXES // 25 for kind in kinds), seen
    assert seen["answers"] > 4 * NUM_MIXES
