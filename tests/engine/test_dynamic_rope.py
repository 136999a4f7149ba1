"""Dynamic NTK in the engine: a sequence changes its base at every doubling of the original length.

With it all that was computed for the sequence is computed again, and nothing else changes: its
tokens and logprobs are bit for bit those of any other way to the same text.
"""

from __future__ import annotations

import random

import pytest

from phi3svc.engine.events import TokenEvent
from phi3svc.engine.request import Request, SamplingParams
from phi3svc.engine.sequence import Sequence
from phi3svc.engine.speculation import Speculation
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from tests.engine.core_runs import Answer, make_core, run, run_alone
from tests.engine.requests import GREEDY, generate
from tests.model.checkpoints import make_checkpoint, rescale

ORIGINAL, FACTOR = 16, 5.0
LONGEST = 80


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    path = make_checkpoint(tmp_path_factory.mktemp("dynamic"), max_position_embeddings=ORIGINAL)
    return load_network(rescale(path, {"rope_type": "dynamic", "factor": FACTOR}))


def requests(sampling: SamplingParams = GREEDY) -> list[Request]:
    """One each side of every boundary and some that cross one, two or all three; the last is cut
    off where no longer sequence is served."""
    generator = random.Random(0)
    return [
        generate(
            f"{i}",
            [generator.randrange(256) for _ in range(num_prompt)],
            num_new,
            sampling=sampling,
        )
        for i, (num_prompt, num_new) in enumerate(
            [(3, 70), (14, 3), (16, 2), (17, 4), (25, 12), (30, 40), (33, 9), (60, 12), (70, 30)]
        )
    ]


def test_every_boundary_changes_what_is_computed(network: Network) -> None:
    """Guards the tests below."""
    config = network.config
    assert config.context_len == LONGEST
    assert [config.rope_set(n) for n in (16, 17, 32, 33, 64, 65, 80)] == [0, 1, 1, 2, 2, 3, 3]
    network.rope.ensure(LONGEST)
    assert len({network.rope.table[i].numpy().tobytes() for i in range(4)}) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_step_tokens", [24, 2048])
@pytest.mark.parametrize("max_draft_tokens", [0, 16])
def test_each_equals_its_run_alone_to_the_bit(
    network: Network, temperature: float, max_step_tokens: int, max_draft_tokens: int
) -> None:
    sequences = requests(SamplingParams(temperature, seed=5))
    core = make_core(network, max_step_tokens=max_step_tokens, max_draft_tokens=max_draft_tokens)
    answers = run(core, sequences, all_at_once=False)
    assert answers == run_alone(network, sequences)
    assert len(answers["8"].token_ids) == LONGEST - 70
    assert answers["8"].finish == "length"


def test_every_step_equals_a_run_from_nothing(network: Network) -> None:
    """Each token of a decode across all boundaries, and its logprob, is that of a new prompt."""
    generator = random.Random(1)
    prompt_ids = [generator.randrange(256) for _ in range(10)]
    answer = run_alone(network, [generate("a", prompt_ids, 60)])["a"]
    for i, (token_id, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        from_nothing = run_alone(network, [generate("b", prompt_ids + answer.token_ids[:i], 1)])
        assert from_nothing["b"].token_ids == [token_id]
        assert from_nothing["b"].logprobs == [logprob]
    assert len(set(answer.token_ids)) > 10, "an answer that says one thing forever tests nothing"


class Told(Speculation):
    """Guesses 8 tokens of what it is told follows, or as many as may be guessed."""

    def __init__(self, truth: list[int], network: Network) -> None:
        super().__init__(8, LONGEST, network.config.rope_set)
        self.truth = truth

    def may_draft(self, sequence: Sequence) -> bool:
        return True

    def pays(self, sequences: list[Sequence], drafts: list[list[int]]) -> bool:
        return True

    def draft(self, sequence: Sequence, max_tokens: int, price: float) -> list[int]:
        return self.truth[sequence.num_tokens :][: min(max_tokens, self._max_len(sequence))]


def test_guesses_end_at_every_boundary(network: Network) -> None:
    request = generate("a", list(range(10)), 60)
    plain = run(make_core(network, max_draft_tokens=0), [request])["a"]
    core = make_core(network)
    core._scheduler._speculation = Told(request.prompt_ids + plain.token_ids, network)
    answer, num_per_step = Answer(), []
    core.add(request)
    while core.has_work:
        for event in core.step():
            assert isinstance(event, TokenEvent)
            answer.take(event)
            num_per_step.append(len(event.token_ids))
    assert answer == plain
    # 11 tokens are known after the first step, so 5 more can be guessed, and one follows. Beyond a
    # boundary all are computed again, and that step's token comes alone.
    assert num_per_step == [1, 6, 1, 9, 6, 1, 9, 9, 9, 4, 1, 4]
