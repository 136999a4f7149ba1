"""Log probabilities of prompt and answer, and of the likeliest tokens: right, and bit-stable."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, mixed_requests, run, run_alone
from tests.engine.requests import generate
from tests.model import oracle
from tests.networks import load_network

NUM_TOP = 5


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def network(request: pytest.FixtureRequest, tiny: Path) -> Network:
    return load_network(tiny, request.param)


def wanting_everything(num_requests: int = 8, *, n: int = 1) -> list[GenerateRequest]:
    """Prompts on both sides of the boundary at 32, one of them of a single token."""
    generator = random.Random(11)
    requests = []
    for i, length in enumerate([1, 2, 15, 16, 17, 31, 33, 60][:num_requests]):
        requests.append(
            generate(
                f"w{i}",
                [generator.randrange(256) for _ in range(length)],
                6 + i,
                sampling=SamplingParams(temperature=i % 3, seed=i),
                n=n,
                num_top_logprobs=i % 3 * 10,
                want_prompt_logprobs=True,
            )
        )
    return requests


def check_shape(request: GenerateRequest, answer: Answer) -> None:
    num_prompt, num_new = len(request.prompt_ids), len(answer.token_ids)
    assert len(answer.prompt_logprobs) == num_prompt - 1
    assert len(answer.logprobs) == num_new
    wants_top = request.num_top_logprobs > 0
    assert len(answer.top) == num_new * wants_top
    assert len(answer.prompt_top) == (num_prompt - 1) * wants_top
    for token_ids, logprobs in (*answer.top, *answer.prompt_top):
        assert len(token_ids) == len(logprobs) == request.num_top_logprobs
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(set(token_ids)) == len(token_ids)


def check_agreement(
    token_ids: list[int], logprobs: list[float], top: list[tuple[list[int], list[float]]]
) -> None:
    """A token among the likeliest has there, bit for bit, the log probability given for it."""
    for token_id, logprob, (top_ids, top_logprobs) in zip(token_ids, logprobs, top, strict=True):
        if token_id in top_ids:
            assert top_logprobs[top_ids.index(token_id)] == logprob
        else:
            assert logprob <= top_logprobs[-1]


def test_every_place_has_what_was_asked_for(network: Network) -> None:
    requests = wanting_everything()
    answers = run_alone(network, requests)
    for request in requests:
        answer = answers[request.request_id]
        check_shape(request, answer)
        if request.num_top_logprobs:
            check_agreement(answer.token_ids, answer.logprobs, answer.top)
            check_agreement(request.prompt_ids[1:], answer.prompt_logprobs, answer.prompt_top)


def test_greedy_tokens_are_the_likeliest(network: Network) -> None:
    answer = run(make_core(network), [generate("a", [5, 6], 30, num_top_logprobs=2)])["a"]
    assert [token_ids[0] for token_ids, _ in answer.top] == answer.token_ids
    assert [logprobs[0] for _, logprobs in answer.top] == answer.logprobs


@pytest.mark.parametrize("prompt_len", [2, 31, 32, 33, 50])
def test_they_are_those_of_transformers(tiny: Path, prompt_len: int) -> None:
    network = load_network(tiny, "float32")
    generator = random.Random(prompt_len)
    prompt_ids = [generator.randrange(256) for _ in range(prompt_len)]
    request = generate("a", prompt_ids, 1, num_top_logprobs=NUM_TOP, want_prompt_logprobs=True)
    answer = run(make_core(network), [request])["a"]
    logits = oracle.logits(oracle.load(tiny), prompt_ids)
    expected = torch.log_softmax(logits.double(), dim=-1)
    next_ids = torch.tensor([*prompt_ids[1:], answer.token_ids[0]])
    of_next = expected.gather(1, next_ids[:, None])[:, 0]
    found = torch.tensor([*answer.prompt_logprobs, *answer.logprobs]).double()
    torch.testing.assert_close(found, of_next, rtol=0, atol=2e-4)
    best, best_ids = expected.topk(NUM_TOP)
    top = [*answer.prompt_top, *answer.top]
    torch.testing.assert_close(
        torch.tensor([logprobs for _, logprobs in top]).double(), best, rtol=0, atol=2e-4
    )
    gap = (best[:, :-1] - best[:, 1:]).min(dim=1).values
    clear = gap > 1e-3
    assert clear.any()
    ids = torch.tensor([token_ids for token_ids, _ in top])
    assert torch.equal(ids[clear][:, :-1], best_ids[clear][:, :-1])


@pytest.mark.parametrize(
    "settings",
    [
        {"max_step_tokens": 1},
        {"max_step_tokens": 7},
        {"max_step_tokens": 100},
        {"num_blocks": 12},
        {"max_step_tokens": 9, "num_blocks": 10, "max_draft_tokens": 0},
        {"prefix_cache": False},
    ],
    ids=str,
)
def test_neighbours_chunks_and_preemption_change_no_bit(
    network: Network, settings: dict[str, int]
) -> None:
    requests = [*mixed_requests(6, num_new=20), *wanting_everything(n=2)]
    core = make_core(network, **settings)
    alone = run_alone(network, requests)
    assert run(core, requests, all_at_once=False) == alone
    # A warm cache knows the keys, and not what the rows said: they are computed again.
    again = run(core, requests)
    assert again == alone
    if settings.get("prefix_cache", True) and "num_blocks" not in settings:
        assert again["r2"].num_cached_prompt_tokens > 0
    assert again["w7"].num_cached_prompt_tokens == 0


def test_preemption_tells_nothing_twice(tiny: Path) -> None:
    network = load_network(tiny, "float32")
    requests = [generate(f"p{i}", [i, *range(40)], 40, want_prompt_logprobs=True) for i in range(4)]
    core = make_core(network, max_step_tokens=24, num_blocks=11)
    answers = run(core, requests)
    assert sum(answer.num_preemptions for answer in answers.values()) > 0
    assert answers == run_alone(network, requests)


def test_a_vocabulary_smaller_than_the_list_is_listed_whole(tiny: Path) -> None:
    network = load_network(tiny, "float32")
    request = generate("a", [1], 1, num_top_logprobs=20)
    ((token_ids, logprobs),) = run(make_core(network), [request])["a"].top
    assert len(token_ids) == min(20, network.config.vocab_size)
    assert sum(map(math.exp, logprobs)) <= 1 + 1e-6
