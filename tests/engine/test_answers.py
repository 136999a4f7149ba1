"""Several answers to one request: each as if it were alone, the prompt computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.errors import Overloaded
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, answer_name, make_core, mixed_requests, run, run_alone
from tests.engine.fake_runner import next_token
from tests.engine.requests import generate
from tests.engine.test_scheduler import BLOCK_SIZE, Harness, shape

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def members(h: Harness, leader: Sequence) -> list[Sequence]:
    return h.scheduler._roster._open.of(leader.request_id)[::-1]


def expected(prompt_ids: list[int], num_new: int, index: int) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(num_new):
        ids.append(next_token(ids, 0, index))
    return ids


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_the_prompt_is_computed_once_and_its_full_blocks_are_shared(prefix_cache: bool) -> None:
    h = Harness(prefix_cache=prefix_cache, max_draft_tokens=0)
    leader = h.add(generate("a", PROMPT, 6, n=3))
    sequences = members(h, leader)
    assert shape(h.step()) == [("a", 10)]
    # The forks compute what the prompt has in its last block; the first one goes on.
    assert shape(h.step()) == [("a", 1), ("a", 2), ("a", 2)]
    tables = [list(s.block_table) for s in sequences]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({table[2] for table in tables}) == 3
    h.run()
    for index, sequence in enumerate(sequences):
        assert sequence.token_ids == expected(PROMPT, 6, index)


def test_answers_of_another_request_share_nothing_without_the_prefix_cache() -> None:
    h = Harness(prefix_cache=False)
    h.add(generate("a", PROMPT, 4, n=2))
    h.run()
    again = h.add(generate("b", PROMPT, 4, n=2))
    assert shape(h.step()) == [("b", 10)]
    h.run()
    assert again.num_cached_prompt_tokens == 0


def test_forks_wait_for_their_leader_and_start_before_what_waits() -> None:
    h = Harness(max_step_tokens=4, max_sequences=2, max_draft_tokens=0)
    h.add(generate("a", PROMPT, 3, n=2))
    h.add(generate("b", [1], 3))
    assert [shape(h.step()) for _ in range(2)] == [[("a", 4)], [("a", 4)]]
    # Room for the newcomer while the prompt's end is computed: it was there first.
    assert shape(h.step()) == [("a", 2), ("b", 1)]
    h.run()


def test_cancelling_a_request_ends_all_and_cancelling_one_answer_ends_that() -> None:
    h = Harness()
    leader = h.add(generate("a", PROMPT, 20, n=3))
    first, second, third = members(h, leader)
    h.step()
    h.step()
    h.scheduler.cancel("a", 1)
    assert [s.has_ended for s in (first, second, third)] == [False, True, False]
    h.step()
    h.scheduler.cancel("a")
    assert all(s.has_ended for s in (first, second, third))
    assert h.blocks.num_free == h.blocks.num_blocks
    assert not h.scheduler.has_work


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_forks_go_on_when_their_leader_is_cancelled_even_before_it_has_begun(
    num_steps: int,
) -> None:
    h = Harness(max_step_tokens=6)
    leader = h.add(generate("a", PROMPT, 5, n=3))
    _, *forks = members(h, leader)
    for _ in range(num_steps):
        h.step()
    h.scheduler.cancel("a", 0)
    h.run()
    for index, fork in enumerate(forks, 1):
        assert fork.token_ids == expected(PROMPT, 5, index)


def test_a_request_counts_as_many_as_it_asks_for() -> None:
    h = Harness(max_sequences=2, max_waiting_requests=3)
    h.add(generate("a", [1], 9, n=4))
    with pytest.raises(Overloaded, match=r"4 sequences are running or waiting .* limit of 5"):
        h.add(generate("b", [1], 9, n=2))
    h.add(generate("c", [1], 9))
    assert h.scheduler.num_waiting == 5
    h.run()
    # Alone it may be larger than the bound: else it could never come in.
    h.add(generate("d", [1], 9, n=9))
    h.run()


def test_a_deadline_ends_all_answers_and_is_told_once() -> None:
    h = Harness()
    h.scheduler._roster._clock = lambda: 5.0
    leader = h.add(generate("a", PROMPT, 5, n=3, deadline_s=4.0))
    sequences = members(h, leader)
    batch = h.scheduler.schedule()
    assert [sequence.request_id for sequence in batch.expired] == ["a"]
    assert all(s.has_ended for s in sequences)
    assert not h.scheduler.has_work


def test_few_blocks_preempt_answers_and_change_none() -> None:
    h = Harness(num_blocks=8)
    leader = h.add(generate("a", PROMPT, 14, n=4))
    sequences = members(h, leader)
    h.run()
    assert sum(s.num_preemptions for s in sequences) > 0
    for index, sequence in enumerate(sequences):
        assert sequence.token_ids == expected(PROMPT, 14, index)
    assert h.blocks.num_blocks * BLOCK_SIZE < 4 * len(leader.token_ids)


@pytest.fixture(scope="module", params=["tiny-float32", "tiny-bfloat16"])
def network(request: pytest.FixtureRequest) -> Network:
    name, dtype = request.param.split("-")
    path: Path = request.getfixturevalue(name)
    return load_network(path, dtype)


def requests_with_answers(n: int) -> list[GenerateRequest]:
    sampling = SamplingParams(temperature=1.2, top_p=0.95, seed=77, repetition_penalty=1.1)
    return [
        generate("short", [3, 1, 4], 12, n=n, sampling=sampling),
        generate("crossing", list(range(28)), 12, n=n, sampling=SamplingParams(1.0, seed=5)),
        generate("greedy", list(range(40)), 12, n=n),
    ]


def run_each(network: Network, requests: list[GenerateRequest]) -> dict[str, Answer]:
    return {k: v for request in requests for k, v in run_alone(network, [request]).items()}


def test_the_first_answer_is_that_of_a_request_for_one(network: Network) -> None:
    several = run_each(network, requests_with_answers(5))
    for name, answer in run_each(network, requests_with_answers(1)).items():
        assert several[name] == answer


def test_sampled_answers_differ_and_greedy_ones_do_not(network: Network) -> None:
    answers = run_each(network, requests_with_answers(5))
    for name, num_different in (("short", 5), ("crossing", 5), ("greedy", 1)):
        texts = {tuple(answers[answer_name(name, i)].token_ids) for i in range(5)}
        assert len(texts) == num_different


@pytest.mark.parametrize(
    "settings",
    [
        {"max_step_tokens": 7},
        {"max_step_tokens": 16, "num_blocks": 14},
        {"prefix_cache": False},
        {"max_sequences": 2, "max_draft_tokens": 0},
    ],
    ids=str,
)
def test_neighbours_chunks_and_preemption_change_no_bit(
    network: Network, settings: dict[str, int]
) -> None:
    requests = [*mixed_requests(6, num_new=20), *requests_with_answers(4)]
    answers = run(make_core(network, **settings), requests)
    assert answers == run_alone(network, requests)


def test_a_failure_fails_the_request_once(network: Network) -> None:
    request = structs.replace(requests_with_answers(3)[0], max_new_tokens=50)
    core = make_core(network)
    core.add(request)
    core.step()
    core.step()
    broken = core._runner.run
    core._runner.run = lambda batch: 1 / 0  # type: ignore[assignment,method-assign]
    events = core.step()
    core._runner.run = broken  # type: ignore[method-assign]
    assert [type(event).__name__ for event in events] == ["FailedEvent"]
    assert not core.has_work


def test_answers_that_have_not_begun_hold_nothing_of_a_long_prompt() -> None:
    h = Harness(num_blocks=400, context_len=1600, max_step_tokens=64, max_sequences=2)
    sampling = SamplingParams(repetition_penalty=1.2)
    leader = h.add(generate("a", [1, 2] * 500, 5, n=4, sampling=sampling))
    forks = members(h, leader)[1:]
    assert not any(fork.token_ids or fork.token_counts for fork in forks)
    h.run()
    assert [fork.num_generated for fork in forks] == [5, 5, 5]
