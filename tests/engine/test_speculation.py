"""Guessing ahead changes how fast an answer comes, and not one bit of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import phi3svc
from phi3svc.engine.request import Request, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.engine.speculation import Speculation, StepCost
from phi3svc.model.loader import load_network
from phi3svc.model.phi3 import Phi3Network
from tests.engine.core_runs import make_core, mixed_requests, run, run_alone
from tests.engine.requests import classify, generate
from tests.engine.test_scheduler import Harness


class TestStepCost:
    def test_rows_are_cheap_beside_a_large_fixed_cost_and_dear_in_a_large_batch(self) -> None:
        cost = StepCost()
        for i in range(50):
            cost.observe(1 + i % 8, 0.100 + 0.010 * (1 + i % 8))
        assert cost.price(1) == pytest.approx(0.010 / 0.110)
        assert cost.price(40) == pytest.approx(0.400 / 0.500)

    @pytest.mark.parametrize("num_rows", [0, 1, 32])
    def test_steps_of_one_size_leave_the_assumption(self, num_rows: int) -> None:
        cost = StepCost()
        before = cost.price(8)
        for _ in range(100):
            cost.observe(num_rows, 0.2)
        assert cost.price(8) == before

    def test_a_hiccup_does_not_turn_the_price_around(self) -> None:
        cost = StepCost()
        for i in range(50):
            cost.observe(1 + i % 8, 0.100 + 0.010 * (1 + i % 8))
        cost.observe(1, 60.0)
        assert 0 < cost.price(1) < 0.2

    def test_a_machine_that_changes_is_followed(self) -> None:
        cost = StepCost()
        for i in range(100):
            cost.observe(1 + i % 8, 0.100)
        cheap = cost.price(4)
        for i in range(300):
            cost.observe(1 + i % 8, 0.050 * (1 + i % 8))
        assert cost.price(4) > 3 * cheap


def speculating(max_draft_tokens: int = 8) -> Speculation:
    return Speculation(max_draft_tokens, 1000, lambda num_tokens: 0)


class TestPolicy:
    def draft_once(self, speculation: Speculation, sequence: Sequence, price: float) -> list[int]:
        return speculation.draft(sequence, 8, price) if speculation.may_draft(sequence) else []

    def sequence(self, speculation: Speculation) -> Sequence:
        sequence = Sequence(generate("a", [1, 2, 3] * 8, 100))
        sequence.drafter = speculation.drafter_for(sequence)
        return sequence

    def test_a_sequence_whose_guesses_fail_is_left_in_peace(self) -> None:
        speculation = speculating()
        sequence = self.sequence(speculation)
        num_drafted = 0
        for _ in range(200):
            draft = self.draft_once(speculation, sequence, price=0.2)
            speculation.learn(sequence, len(draft), 0)
            num_drafted += len(draft)
            sequence.append([1, 2, 3][sequence.num_tokens % 3])
        assert 0 < num_drafted < 20

    def test_one_whose_guesses_are_right_guesses_more(self) -> None:
        speculation = speculating()
        sequence = self.sequence(speculation)
        lengths = []
        while len(lengths) < 5:
            draft = self.draft_once(speculation, sequence, price=0.2)
            speculation.learn(sequence, len(draft), len(draft))
            lengths.append(len(draft))
            for token_id in [*draft, [1, 2, 3][(sequence.num_tokens + len(draft)) % 3]]:
                sequence.append(token_id)
        assert lengths == [3, 6, 8, 8, 8]

    def test_where_rows_are_dear_even_good_guesses_stop(self) -> None:
        speculation = speculating()
        sequence = self.sequence(speculation)
        for _ in range(200):
            draft = self.draft_once(speculation, sequence, price=0.95)
            speculation.learn(sequence, len(draft), len(draft) * 2 // 3)
            sequence.append([1, 2, 3][sequence.num_tokens % 3])
        assert sequence.drafter is not None
        assert sequence.drafter.num_drafted < 40

    def test_penalties_classification_and_the_setting_turn_it_off(self) -> None:
        penalty = SamplingParams(repetition_penalty=1.1)
        assert speculating().drafter_for(Sequence(generate("a", [1], 9, sampling=penalty))) is None
        assert speculating().drafter_for(Sequence(classify("a", [1]))) is None
        assert speculating(0).drafter_for(Sequence(generate("a", [1], 9))) is None


class Oracle(Speculation):
    """Guesses what it is told follows, wherever it may."""

    def __init__(self, truth: list[int], h: Harness) -> None:
        super().__init__(8, h.scheduler.context_len, h.scheduler._room._rope_set)
        self.truth = truth

    def may_draft(self, sequence: Sequence) -> bool:
        return True

    def draft(self, sequence: Sequence, max_tokens: int, price: float) -> list[int]:
        return self.truth[sequence.num_tokens :][: min(max_tokens, self._max_len(sequence))]


def scheduled_lengths(
    truth: list[int], num_prompt: int, h: Harness, **request: object
) -> list[int]:
    """Tokens that each step brings when every guess is right."""
    h.scheduler._speculation = Oracle(truth, h)
    sequence = h.add(generate("a", truth[:num_prompt], len(truth) - num_prompt, **request))  # type: ignore[arg-type]
    lengths = [num_prompt]
    while h.scheduler.has_work:
        h.step()
        lengths.append(sequence.num_tokens)
    assert sequence.token_ids == truth[: sequence.num_tokens]
    return [b - a for a, b in pairwise(lengths)]


def truth_of(h: Harness, prompt: list[int], num_new: int) -> list[int]:
    sequence = h.add(generate("truth", prompt, num_new))
    h.run()
    return list(sequence.token_ids)


def test_a_step_brings_all_that_was_guessed_right_and_one_more() -> None:
    truth = truth_of(Harness(), [1, 2, 3], 24)
    assert scheduled_lengths(truth, 3, Harness()) == [1, 9, 9, 5]


def test_a_draft_stays_within_the_steps_budget() -> None:
    truth = truth_of(Harness(), [1, 2, 3], 24)
    assert scheduled_lengths(truth, 3, Harness(max_step_tokens=4))[:4] == [1, 4, 4, 4]


def test_a_draft_ends_where_the_factors_change() -> None:
    def harness() -> Harness:
        return Harness(original_len=10)

    truth = truth_of(harness(), [1, 2, 3], 24)
    # 4 tokens are known; of 10 the short factors hold, so 6 more can be guessed, and one follows.
    # Then all are computed again, and that step's token comes alone.
    assert scheduled_lengths(truth, 3, harness())[:3] == [1, 7, 1]


def test_a_stop_token_ends_the_answer_in_the_middle_of_a_draft() -> None:
    truth = truth_of(Harness(), [1, 2, 3], 24)
    h = Harness()
    assert sum(scheduled_lengths(truth, 3, h, stop_token_ids=(truth[8],))) == 6
    assert h.blocks.num_free == h.blocks.num_blocks


def test_guesses_take_no_block_that_another_will_need() -> None:
    truth = truth_of(Harness(num_blocks=3, context_len=12), [1, 2, 3], 9)
    h = Harness(num_blocks=3, context_len=12)
    assert sum(scheduled_lengths(truth, 3, h)) == 9


DEMO = Path(phi3svc.__file__).parent / "embedded" / "demo"


@pytest.fixture(scope="module", params=["tiny-float32", "tiny-bfloat16", "demo-auto"])
def network(request: pytest.FixtureRequest) -> Phi3Network:
    name, dtype = request.param.split("-")
    path: Path = DEMO if name == "demo" else request.getfixturevalue(name)
    return load_network(path, dtype)


def copying_requests(vocab_size: int) -> Iterator[Request]:
    """Prompts that repeat themselves, greedy and sampled, short of and across the boundary.

    A few favoured tokens make even random weights say the same things again and again.
    """
    generator = random.Random(5)
    for i in range(12):
        phrase = [generator.randrange(min(vocab_size, 256)) for _ in range(2 + i % 5)]
        sampling = SamplingParams(
            temperature=0.3 + 0.1 * i if i % 2 else 0.0,
            top_k=4,
            seed=i,
            logit_bias=dict.fromkeys(phrase[:3], 9.0),
        )
        yield generate(f"copy{i}", phrase * (3 + i % 4), 60, sampling=sampling)


def test_tokens_and_logprobs_are_those_without_it(network: Phi3Network) -> None:
    requests = [*copying_requests(network.config.vocab_size), *mixed_requests(4, num_new=40)]
    alone = {}
    for request in requests:
        alone |= run(make_core(network, max_draft_tokens=0), [request])
    assert not any(answer.num_drafted for answer in alone.values())
    num_accepted = 0
    for max_draft_tokens in (1, 3, 8, 40):
        for together in (True, False):
            groups = [requests] if together else [[request] for request in requests]
            for group in groups:
                core = make_core(network, max_draft_tokens=max_draft_tokens)
                answers = run(core, group)
                assert answers == {name: alone[name] for name in answers}
                num_accepted += sum(answer.num_accepted for answer in answers.values())
    assert num_accepted > 100


def test_a_copy_takes_far_fewer_steps() -> None:
    network = load_network(DEMO, "auto")
    loop = generate("loop", [5, 6, 7, 8] * 4, 300)
    num_steps = []
    for max_draft_tokens in (0, 8):
        core = make_core(network, max_draft_tokens=max_draft_tokens)
        core.add(loop)
        num_steps.append(0)
        while core.has_work:
            core.step()
            num_steps[-1] += 1
    assert num_steps[0] == 300
    assert num_steps[1] < 200


def test_alone_is_alone(network: Phi3Network) -> None:
    requests = list(copying_requests(network.config.vocab_size))[:4]
    assert run(make_core(network), requests) == run_alone(network, requests)
