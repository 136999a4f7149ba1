"""return_dict_in_generate: scores and logits of all kinds of search, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.api.generation_outputs import GenerateDecoderOnlyOutput
from phi3svc.api.modeling import Phi3ForCausalLM
from tests.api.generating import ORIGINAL, left_padded, prompt
from tests.model.checkpoints import make_checkpoint, rescale
from tests.model.conftest import MakeCheckpoint

ALL = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
TOLERANCE = 1e-4

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")


def assert_close(ours: Any, theirs: Any) -> None:
    """Tuples of as many tensors, -inf in the same places."""
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, other, atol=TOLERANCE, rtol=0)


def assert_same_transition_scores(
    model: Phi3ForCausalLM, oracle: Any, ours: Any, theirs: Any
) -> None:
    for normalize in (False, True):
        own, other = (
            who.compute_transition_scores(
                out.sequences, out.scores, out.get("beam_indices"), normalize_logits=normalize
            )
            for who, out in ((model, ours), (oracle, theirs))
        )
        torch.testing.assert_close(own, other, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("length", [9, ORIGINAL - 5, ORIGINAL + 1])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.3, "min_new_tokens": 4, "eos_token_id": [7, 8, 5000]},
        {"min_length": 30, "eos_token_id": [7, 8, 299]},
    ],
    ids=["plain", "processed", "min_length"],
)
def test_greedy(model: Phi3ForCausalLM, oracle: Any, length: int, settings: dict[str, Any]) -> None:
    rows = torch.tensor([prompt(length)])
    ours = model.generate(rows, max_new_tokens=11, **settings, **ALL)
    theirs = oracle.generate(rows, max_new_tokens=11, **settings, **ALL)
    assert isinstance(ours, GenerateDecoderOnlyOutput)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert_close(ours.scores, theirs.scores)
    assert_close(ours.logits, theirs.logits)
    assert_same_transition_scores(model, oracle, ours, theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 0, "temperature": 0.7},
        {"top_k": 20, "top_p": 0.8, "temperature": 1.5, "repetition_penalty": 1.2},
        {"top_k": 0, "min_p": 0.02, "typical_p": 0.9, "min_new_tokens": 3},
    ],
    ids=str,
)
def test_sampled(model: Phi3ForCausalLM, oracle: Any, settings: dict[str, Any]) -> None:
    """Step by step: transformers' scores behind what was drawn here."""
    rows = torch.tensor([prompt(ORIGINAL - 3)])
    settings = settings | {"do_sample": True} | ALL
    ours = model.generate(rows, max_new_tokens=6, seed=3, **settings)
    for step, scores in enumerate(ours.scores):
        before = ours.sequences[:, : rows.shape[1] + step]
        if "min_new_tokens" in settings:
            settings |= {"min_new_tokens": max(0, 3 - step)}
        theirs = oracle.generate(before, max_new_tokens=1, **settings)
        torch.testing.assert_close(ours.logits[step], theirs.logits[0], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(scores, theirs.scores[0], atol=TOLERANCE, rtol=0)
        assert scores[0, ours.sequences[0, rows.shape[1] + step]] > -torch.inf


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greedy_tokens_are_the_largest_scores_to_the_bit(
    checkpoint: MakeCheckpoint, dtype: str
) -> None:
    """Of several rows, with and without padding, each as it is alone."""
    model = Phi3ForCausalLM.from_pretrained(checkpoint(original=ORIGINAL, dtype=dtype))
    batch = left_padded([prompt(n) for n in (3, ORIGINAL - 6, ORIGINAL + 2)])
    width = batch["input_ids"].shape[1]
    settings = {"max_new_tokens": 12, "repetition_penalty": 1.2} | ALL
    ours = model.generate(**batch, **settings)
    for step, scores in enumerate(ours.scores):
        assert torch.equal(scores.argmax(-1), ours.sequences[:, width + step])
    for i, length in enumerate((3, ORIGINAL - 6, ORIGINAL + 2)):
        alone = model.generate(torch.tensor([prompt(length)]), **settings)
        for step in range(12):
            assert torch.equal(ours.scores[step][i], alone.scores[step][0])
            assert torch.equal(ours.logits[step][i], alone.logits[step][0])


def test_scores_across_every_doubling_of_dynamic_ntk(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, max_position_embeddings=16)
    model = Phi3ForCausalLM.from_pretrained(rescale(path, {"rope_type": "dynamic", "factor": 5.0}))
    ours = model.generate(torch.tensor([prompt(5)]), max_new_tokens=75, eos_token_id=None, **ALL)
    assert {model.network.config.rope_set(n) for n in range(5, 80)} == {0, 1, 2, 3}
    assert [int(scores.argmax()) for scores in ours.scores] == ours.sequences[0, 5:].tolist()


def test_rows_that_have_ended_have_zeros(model: Phi3ForCausalLM) -> None:
    rows = torch.tensor([prompt(9), prompt(9, seed=1)])
    first = model.generate(rows, max_new_tokens=1)[0, -1].item()
    ours = model.generate(rows, max_new_tokens=4, eos_token_id=first, pad_token_id=5000, **ALL)
    assert len(ours.scores) == len(ours.logits) == 4
    for scores in (*ours.scores[1:], *ours.logits[1:]):
        assert not scores[0].any()
        assert scores[1].any()
    found = model.compute_transition_scores(ours.sequences, ours.scores)
    assert not found[0, 1:].any()
    assert found[1].all()


def test_transition_scores_are_where_the_scores_are(model: Phi3ForCausalLM) -> None:
    ours = model.generate(torch.tensor([prompt(9)]), max_new_tokens=3, **ALL)
    expected = model.compute_transition_scores(ours.sequences, ours.scores)
    with torch.device("meta"):  # what is made without saying where does not go with them
        assert model.compute_transition_scores(ours.sequences, ours.scores).equal(expected)


def test_answers_of_one_prompt_share_its_computation_and_differ(model: Phi3ForCausalLM) -> None:
    width = ORIGINAL - 3
    settings = {"do_sample": True, "seed": 1, "max_new_tokens": 7} | ALL
    ours = model.generate(torch.tensor([prompt(width)]), num_return_sequences=3, **settings)
    assert len(set(map(tuple, ours.sequences.tolist()))) == 3
    for step, logits in enumerate(ours.logits):
        before = ours.sequences[:, : width + step]
        again = model.generate(before, **settings | {"max_new_tokens": 1})
        assert torch.equal(logits, again.logits[0])


def test_only_what_is_asked_for(model: Phi3ForCausalLM) -> None:
    rows = torch.tensor([prompt(9)])
    assert isinstance(model.generate(rows, max_new_tokens=2, output_scores=True), Tensor)
    output = model.generate(rows, max_new_tokens=2, return_dict_in_generate=True)
    assert output.keys() == ["sequences"]
    assert torch.equal(output["sequences"], output[0])


BEAMS = {
    "plain": {},
    "several": {"num_return_sequences": 3},
    "stopping": {"eos_token_id": list(range(0, 300, 7)), "num_return_sequences": 2},
    "penalties": {"length_penalty": 2.0, "repetition_penalty": 1.4, "early_stopping": True},
}


@pytest.mark.parametrize("settings", BEAMS.values(), ids=BEAMS)
@pytest.mark.parametrize("length", [9, ORIGINAL - 3])
def test_beams(model: Phi3ForCausalLM, oracle: Any, settings: dict[str, Any], length: int) -> None:
    rows = torch.tensor([prompt(length)])
    settings = {"num_beams": 4, "max_new_tokens": 8} | settings | ALL
    ours, theirs = model.generate(rows, **settings), oracle.generate(rows, **settings)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.beam_indices, theirs.beam_indices)
    assert_close([ours.sequences_scores], [theirs.sequences_scores])
    assert_close(ours.scores, theirs.scores)
    assert_close(ours.logits, theirs.logits)
    assert_same_transition_scores(model, oracle, ours, theirs)


def test_beams_of_a_padded_batch(model: Phi3ForCausalLM, oracle: Any) -> None:
    batch = left_padded([prompt(n) for n in (3, 11, 7)])
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 7}
    ours = model.generate(**batch, **settings, **ALL)
    assert torch.equal(ours.sequences, oracle.generate(**batch, **settings))
    for i, row in enumerate([prompt(n) for n in (3, 11, 7)]):
        alone = model.generate(torch.tensor([row]), **settings, **ALL)
        own = slice(2 * i, 2 * i + 2)
        assert torch.equal(ours.sequences[own, 11:], alone.sequences[:, len(row) :])
        assert torch.equal(ours.sequences_scores[own], alone.sequences_scores)
        assert torch.equal(ours.beam_indices[own], alone.beam_indices + 3 * i)
        for step, scores in enumerate(alone.scores):
            assert torch.equal(ours.scores[step][3 * i : 3 * i + 3], scores)


def test_sampled_beams_repeat_with_their_seed(model: Phi3ForCausalLM) -> None:
    rows = torch.tensor([prompt(9)])
    settings: dict[str, Any] = {"num_beams": 3, "do_sample": True, "max_new_tokens": 9}
    first = model.generate(rows, seed=1, **settings)
    assert torch.equal(model.generate(rows, seed=1, **settings), first)
    assert not torch.equal(model.generate(rows, seed=2, **settings), first)
    torch.manual_seed(5)
    drawn = [model.generate(rows, **settings) for _ in range(2)]
    assert not torch.equal(*drawn)
    torch.manual_seed(5)
    assert torch.equal(model.generate(rows, **settings), drawn[0])
