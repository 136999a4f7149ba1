"""A request may be set aside in the middle of its prompt, and goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi3svc.engine.events import TokenEvent
from phi3svc.engine.request import SamplingParams
from phi3svc.model.loader import load_network
from tests.engine.core_runs import Answer, answer_name, make_core, run_alone
from tests.engine.requests import generate


@pytest.mark.parametrize("num_steps", [1, 3, 6, 7, 8])
def test_a_pause_in_the_middle_of_a_prompt_changes_no_bit(tiny: Path, num_steps: int) -> None:
    network = load_network(tiny, "float32")
    request = generate(
        "a",
        list(range(50)),
        12,
        sampling=SamplingParams(temperature=1.0, seed=3),
        n=3,
        num_top_logprobs=2,
        want_prompt_logprobs=True,
    )
    core = make_core(network, max_step_tokens=8)
    answers = {answer_name("a", index): Answer() for index in range(3)}

    def step() -> None:
        for event in core.step():
            index = event.index if isinstance(event, TokenEvent) else 0
            answers[answer_name("a", index)].take(event)

    core.add(request)
    for _ in range(num_steps):
        step()
    core.pause("a")
    while core.has_work:  # a step that was under way
        step()
    assert not all(answer.finish for answer in answers.values())
    core.resume("a")
    while core.has_work:
        step()
    assert answers == run_alone(network, [request])
