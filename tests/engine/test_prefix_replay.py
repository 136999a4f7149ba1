"""Bit for bit: an answer is the same whether its beginning is computed or found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from phi3svc.engine.request import GenerateRequest, Request, SamplingParams
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, run
from tests.engine.requests import classify, generate
from tests.networks import load_network


@pytest.fixture(scope="module", params=["tiny-float32", "tiny-bfloat16", "windowed-float32"])
def network(request: pytest.FixtureRequest) -> Network:
    name, dtype = request.param.split("-")
    path: Path = request.getfixturevalue(name)
    return load_network(path, dtype)


def requests_with_beginnings(seed: int = 0) -> list[Request]:
    """Prompts that begin alike, on either side of the original length of 32 and up to it.

    Those of 17 to 32 tokens cross it while they are answered.
    """
    generator = random.Random(seed)
    document = [generator.randrange(256) for _ in range(80)]
    requests: list[Request] = []
    for i, shared_len in enumerate((17, 20, 30, 32, 33, 48, 64, 79)):
        for j, num_own in enumerate((0, 1, 3)):
            sampling = SamplingParams(1.0, seed=i) if j == 1 else SamplingParams()
            own = [generator.randrange(256) for _ in range(num_own)]
            prompt_ids = document[:shared_len] + own
            requests.append(generate(f"{i}-{j}", prompt_ids, 18, sampling=sampling))
    return requests


@pytest.fixture(scope="module")
def alone(network: Network) -> dict[str, Answer]:
    """Each request in an engine that never saw another and keeps nothing."""
    answers = {}
    for request in requests_with_beginnings():
        answers |= run(make_core(network, prefix_cache=False), [request])
    return answers


@pytest.mark.parametrize("max_step_tokens", [3, 16, 2048])
def test_a_warm_cache_changes_no_bit(
    network: Network, alone: dict[str, Answer], max_step_tokens: int
) -> None:
    requests = requests_with_beginnings()
    assert run(
        make_core(network, max_step_tokens=max_step_tokens, prefix_cache=False), requests
    ) == (alone)
    core = make_core(network, max_step_tokens=max_step_tokens)
    assert run(core, requests, all_at_once=False) == alone
    warm = run(core, requests)
    assert warm == alone
    num_found = {name: answer.num_cached_prompt_tokens for name, answer in warm.items()}
    for request in requests:
        # A prompt of up to 32 tokens was kept with the short factors, the others with the long.
        whole_blocks = (len(request.prompt_ids) - 1) // 16 * 16
        assert num_found[request.request_id] == whole_blocks


def test_a_cache_that_forgets_changes_no_bit(network: Network, alone: dict[str, Answer]) -> None:
    """Sixteen blocks for up to seven of each: found, taken away and found again."""
    core = make_core(network, num_blocks=16, max_step_tokens=16)
    num_preemptions = 0
    for _ in range(2):
        answers = run(core, requests_with_beginnings())
        assert answers == alone
        num_preemptions += sum(answer.num_preemptions for answer in answers.values())
    assert num_preemptions > 0


def test_an_answer_continued_in_the_next_turn_changes_no_bit(network: Network) -> None:
    """What decoding wrote token by token serves a prompt that computing would take in one chunk."""
    first = generate("first", [7, 8, 9], 40, sampling=SamplingParams(1.0, seed=3))
    core = make_core(network)
    answer = run(core, [first])["first"]
    assert len(answer.token_ids) == 40
    second: GenerateRequest = generate("second", [7, 8, 9, *answer.token_ids, 11, 12], 10)
    warm = run(core, [second])["second"]
    assert warm.num_cached_prompt_tokens == 32
    assert warm == run(make_core(network, prefix_cache=False), [second])["second"]


@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_scores_with_a_warm_cache_change_no_bit(two_headed: dict[str, Path], task: str) -> None:
    network = load_network(two_headed[task])
    per_token = task == "token-classification"
    generator = random.Random(5)
    document = [generator.randrange(256) for _ in range(60)]
    requests: list[Request] = [
        classify(str(n), document[:n], per_token=per_token) for n in (1, 16, 17, 33, 48, 60)
    ]
    alone = {}
    for request in requests:
        alone |= run(make_core(network, prefix_cache=False), [request])
    core = make_core(network, max_step_tokens=7)
    run(core, [generate("generated", document[:40], 4)])
    for _ in range(2):
        answers = run(core, requests)
        assert answers == alone
    assert (answers["60"].num_cached_prompt_tokens > 0) is not per_token
