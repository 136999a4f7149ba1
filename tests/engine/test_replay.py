"""Bit for bit: a request's tokens and logprobs do not depend on anything around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3svc import ops
from phi3svc.engine.request import Request
from phi3svc.model.network import Network
from tests.devices import BACKEND
from tests.engine.core_runs import (
    Answer,
    every_setting,
    make_core,
    mixed_requests,
    run,
    run_alone,
)
from tests.networks import load_network

NUM_REQUESTS = 16


@pytest.fixture(autouse=True)
def restored_runtime() -> Iterator[None]:
    isa, num_threads = ops.isa(), ops.num_threads()
    yield
    ops.set_isa(isa)
    ops.set_num_threads(num_threads)


NETWORKS = {
    "cpu": [
        *("tiny-float32", "tiny-bfloat16", "tiny-int4", "windowed-float32", "windowed-int8"),
        *("small-float32", "small-bfloat16", "small-int4"),
    ],
    "cuda": ["tiny-fp8", "windowed-bfloat16", "small-float32"],
}[BACKEND]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    name, dtype = request.param.split("-")
    path: Path = request.getfixturevalue(name)
    return load_network(path, dtype)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return mixed_requests(NUM_REQUESTS)


@pytest.fixture(scope="module")
def alone(network: Network, requests: list[Request]) -> dict[str, Answer]:
    answers = run_alone(network, requests)
    assert all(answer.finish == "length" for answer in answers.values())
    return answers


@pytest.mark.parametrize("max_step_tokens", [1, 3, 16, 2048])
@pytest.mark.parametrize("all_at_once", [True, False])
def test_batch_and_chunks_change_no_bit(
    network: Network,
    requests: list[Request],
    alone: dict[str, Answer],
    max_step_tokens: int,
    all_at_once: bool,
) -> None:
    core = make_core(network, max_step_tokens=max_step_tokens)
    assert run(core, requests, all_at_once=all_at_once) == alone


@pytest.mark.parametrize("max_step_tokens", [16, 2048])
def test_preemption_changes_no_bit(network: Network, max_step_tokens: int) -> None:
    requests = mixed_requests(16, num_new=48)
    core = make_core(network, max_step_tokens=max_step_tokens, num_blocks=18)
    answers = run(core, requests)
    assert sum(answer.num_preemptions for answer in answers.values()) > 2
    assert answers == run_alone(network, requests)


@pytest.mark.parametrize(("max_step_tokens", "num_blocks"), [(3, 512), (2048, 512), (2048, 16)])
def test_with_every_setting_neighbours_chunks_and_preemption_change_no_bit(
    network: Network, max_step_tokens: int, num_blocks: int
) -> None:
    requests = [*mixed_requests(6, num_new=48), *every_setting(6, num_new=48)]
    # What is guessed depends on the clock, and with it who gives way to whom: not here.
    max_draft_tokens = 0 if num_blocks < 512 else 8
    core = make_core(
        network,
        max_step_tokens=max_step_tokens,
        num_blocks=num_blocks,
        max_draft_tokens=max_draft_tokens,
    )
    answers = run(core, requests)
    if num_blocks < 512:
        assert sum(answers[f"s{i}"].num_preemptions for i in range(6)) > 0
    assert answers == run_alone(network, requests)


def test_used_blocks_change_no_bit(
    network: Network, requests: list[Request], alone: dict[str, Answer]
) -> None:
    core = make_core(network, num_blocks=24)
    for turn in range(3):
        rotated = requests[turn * 5 :] + requests[: turn * 5]
        assert run(core, rotated) == alone


@pytest.mark.cpu_only
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("isa", ops.available_isas())
def test_threads_change_no_bit_on_any_isa(tiny: Path, isa: str, num_threads: int) -> None:
    ops.set_isa(isa)
    ops.set_num_threads(1)
    requests = mixed_requests(8)
    for dtype in ("float32", "bfloat16", "int8", "int4"):
        network = load_network(tiny, dtype)
        alone = run_alone(network, requests)
        ops.set_num_threads(num_threads)
        assert run(make_core(network, max_step_tokens=16), requests) == alone
        ops.set_num_threads(1)
