"""Runs requests through an EngineCore to the end and gathers what each one got."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import EngineEvent, FailedEvent, PromptEvent, ScoresEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest, Request, SamplingParams
from phi3svc.model.network import Network
from tests.engine.requests import GREEDY, generate

Top = list[tuple[list[int], list[float]]]
"""Token ids and log probabilities of the likeliest, place by place."""


@dataclass
class Answer:
    """Everything an engine said about one request, or about one of its n answers."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: Top = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_top: Top = field(default_factory=list)
    finish: str | None = None
    scores: list[list[float]] | None = None
    failure: FailedEvent | None = None
    num_preemptions: int = field(default=0, compare=False)
    num_cached_prompt_tokens: int = field(default=0, compare=False)
    num_drafted: int = field(default=0, compare=False)
    num_accepted: int = field(default=0, compare=False)

    def take(self, event: EngineEvent) -> None:
        assert self.finish is self.scores is self.failure is None, "an event after the end"
        if isinstance(event, FailedEvent):
            self.failure = event
            return
        if isinstance(event, PromptEvent):
            assert not self.token_ids, "the prompt after the answer has begun"
            assert event.start == len(self.prompt_logprobs) + 1
            self.prompt_logprobs += event.logprobs
            self.prompt_top += [(top.token_ids, top.logprobs) for top in event.top]
            return
        if isinstance(event, TokenEvent):
            self.token_ids += event.token_ids
            self.logprobs += event.logprobs
            self.top += [(top.token_ids, top.logprobs) for top in event.top]
            self.finish = event.finish
        elif isinstance(event, ScoresEvent):
            self.scores = event.scores
        if event.timings is not None:
            self.num_preemptions = event.timings.num_preemptions
            self.num_cached_prompt_tokens = event.timings.cached_prompt_token_count
            self.num_drafted = event.timings.drafted_token_count
            self.num_accepted = event.timings.accepted_token_count


def answer_name(request_id: str, index: int = 0) -> str:
    """A request's first answer has its name, the others one of their own."""
    return f"{request_id}#{index}" if index else request_id


def make_core(
    network: Network, *, max_step_tokens: int = 2048, num_blocks: int = 512, **settings: int
) -> EngineCore:
    config = EngineConfig(max_step_tokens=max_step_tokens, **settings)
    return EngineCore(network, config, num_blocks)


def run(
    core: EngineCore, requests: list[Request], *, all_at_once: bool = True
) -> dict[str, Answer]:
    """Answers by `answer_name`. Not all at once: one more request joins at every step."""
    answers = {
        answer_name(request.request_id, index): Answer()
        for request in requests
        for index in range(request.n if isinstance(request, GenerateRequest) else 1)
    }
    num_free = core.num_free_blocks
    queue = list(requests)
    while queue or core.has_work:
        while queue:
            core.add(queue.pop(0))
            if not all_at_once:
                break
        for event in core.step():
            index = event.index if isinstance(event, TokenEvent) else 0
            answers[answer_name(event.request_id, index)].take(event)
    assert core.num_free_blocks == num_free
    return answers


def run_alone(network: Network, requests: list[Request]) -> dict[str, Answer]:
    """Each request in an engine that never saw another."""
    answers = {}
    for request in requests:
        answers |= run(make_core(network), [request])
    return answers


def mixed_requests(num_requests: int, *, num_new: int = 8, seed: int = 0) -> list[Request]:
    """Greedy and sampled; prompts below, across and beyond the original length of 32."""
    generator = random.Random(seed)
    requests: list[Request] = []
    for i in range(num_requests):
        sampling = GREEDY
        if i % 3:
            sampling = SamplingParams(
                temperature=generator.choice([0.7, 1.0, 1.5]),
                top_k=generator.choice([0, 5, 50]),
                top_p=generator.choice([1.0, 0.9, 0.5]),
                seed=generator.randrange(2**64),
            )
        prompt_len = [3, 28, 45, 17, 31, 32, 33, 1][i % 8] + i // 8
        prompt_ids = [generator.randrange(256) for _ in range(prompt_len)]
        requests.append(generate(f"r{i}", prompt_ids, num_new + i % 5, sampling=sampling))
    return requests


def every_setting(num_requests: int, *, num_new: int = 24, seed: int = 1) -> list[Request]:
    """Requests with all sampling settings at once, every other one greedy."""
    generator = random.Random(seed)
    requests: list[Request] = []
    for i in range(num_requests):
        sampling = SamplingParams(
            temperature=[0.0, 1.1][i % 2],
            top_k=100,
            top_p=0.97,
            seed=generator.randrange(2**64),
            min_p=0.01,
            typical_p=0.95,
            repetition_penalty=1.3,
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            logit_bias={generator.randrange(256): generator.uniform(-3, 3) for _ in range(9)},
        )
        prompt_ids = [generator.randrange(256) for _ in range(5 + 9 * i)]
        request = generate(
            f"s{i}",
            prompt_ids,
            num_new,
            sampling=sampling,
            stop_token_ids=tuple(range(0, 256, 3)),
            min_new_tokens=num_new // 2,
        )
        requests.append(request)
    return requests


def poison(network: Network, token_id: int) -> None:
    """Make every sequence that has this token give NaN."""
    embedding = network.weights.embedding
    assert isinstance(embedding, torch.Tensor)
    embedding[token_id] = float("nan")
