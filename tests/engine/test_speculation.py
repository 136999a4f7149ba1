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
from phi3svc.model.network import Network
from tests.engine.core_runs import make_core, mixed_requests, run, run_alone
from tests.engine.requests import classify, generate
from tests.engine.test_scheduler import Harness
from tests.networks import load_network


class TestStepCost:
    def test_a_line_over_the_rows_is_found(self) -> None:
        cost = StepCost()
        for i in range(50):
            cost.observe(1 + i % 8, 0.100 + 0.010 * (1 + i % 8))
        assert cost.seconds(1) == pytest.approx(0.110)
        assert cost.seconds(40) == pytest.approx(0.500)

    def test_nothing_is_said_before_the_first_step(self) -> None:
        assert StepCost().seconds(1) is None

    @pytest.mark.parametrize("num_rows", [0, 1, 32])
    def test_steps_of_one_size_tell_of_that_size(self, num_rows: int) -> None:
        cost = StepCost()
        for _ in range(100):
            cost.observe(num_rows, 0.2)
        assert cost.seconds(num_rows) == pytest.approx(0.2)
        assert cost.seconds(num_rows + 8) > 0.2  # type: ignore[operator]

    def test_a_hiccup_does_not_turn_the_line_around(self) -> None:
        cost = StepCost()
        for i in range(50):
            cost.observe(1 + i % 8, 0.100 + 0.010 * (1 + i % 8))
        cost.observe(1, 60.0)
        assert cost.seconds(8) >= cost.seconds(1) > 0.1  # type: ignore[operator]

    def test_a_machine_that_changes_is_followed(self) -> None:
        cost = StepCost()
        for i in range(100):
            cost.observe(1 + i % 8, 0.100)
        for i in range(300):
            cost.observe(1 + i % 8, 0.050 * (1 + i % 8))
        assert cost.seconds(8) == pytest.approx(0.4, rel=0.1)


def speculating(max_draft_tokens: int = 16) -> Speculation:
    return Speculation(max_draft_tokens, 1000, lambda num_tokens: 0)


class TestPolicy:
    def draft_once(self, speculation: Speculation, sequence: Sequence, price: float) -> list[int]:
        return speculation.draft(sequence, 16, price) if speculation.may_draft(sequence) else []

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
        assert 0 < num_drafted < 40

    def test_one_whose_guesses_are_right_guesses_more(self) -> None:
        speculation = speculating()
        sequence = self.sequence(speculation)
        assert sequence.drafter is not None
        sequence.drafter.length = 4
        lengths = []
        while len(lengths) < 5:
            draft = self.draft_once(speculation, sequence, price=0.2)
            speculation.learn(sequence, len(draft), len(draft))
            lengths.append(len(draft))
            for token_id in [*draft, [1, 2, 3][(sequence.num_tokens + len(draft)) % 3]]:
                sequence.append(token_id)
        assert lengths == [4, 8, 16, 16, 16]

    def test_where_rows_are_dear_even_good_guesses_stop(self) -> None:
        speculation = speculating()
        sequence = self.sequence(speculation)
        for _ in range(200):
            draft = self.draft_once(speculation, sequence, price=0.95)
            speculation.learn(sequence, len(draft), len(draft) * 2 // 3)
            sequence.append([1, 2, 3][sequence.num_tokens % 3])
        assert sequence.drafter is not None
        assert sequence.drafter.num_drafted < 40

    def test_guesses_are_made_where_the_step_brings_more_a_second(self) -> None:
        speculation = speculating()
        sequences = [self.sequence(speculation) for _ in range(4)]
        drafts = [[1, 2, 3, 1, 2, 3, 1, 2]] * 4
        for _ in range(20):
            speculation.observe(4, 4, 0.010)
            for num_rows in (5, 20, 36):
                speculation.observe(4, num_rows, 0.010 + 0.0005 * num_rows)
        assert speculation.pays(sequences, drafts)
        assert not any(s.drafter.is_resting(s.num_tokens) for s in sequences if s.drafter)
        for _ in range(200):
            for num_rows in (5, 20, 36):
                speculation.observe(4, num_rows, 0.010 + 0.0050 * num_rows)
            speculation.observe(4, 4, 0.010)
        said = [speculation.pays(sequences, drafts) for _ in range(40)]
        assert said.count(True) == 5, "now and then it is tried all the same"
        assert all(s.drafter.is_resting(s.num_tokens + 1) for s in sequences if s.drafter)

    def test_what_plain_steps_cost_stays_known(self) -> None:
        speculation = speculating()
        sequences = [self.sequence(speculation)]
        speculation.observe(1, 1, 0.010)
        said = []
        for _ in range(200):
            said.append(speculation.pays(sequences, [[1, 2, 3]]))
            speculation.observe(1, 4 if said[-1] else 1, 0.010)
        assert 2 <= said.count(False) <= 10

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

    def pays(self, sequences: list[Sequence], drafts: list[list[int]]) -> bool:
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
def network(request: pytest.FixtureRequest) -> Network:
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


def test_tokens_and_logprobs_are_those_without_it(network: Network) -> None:
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


def test_alone_is_alone(network: Network) -> None:
    requests = list(copying_requests(network.config.vocab_size))[:4]
    assert run(make_core(network), requests) == run_alone(network, requests)
