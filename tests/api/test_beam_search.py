"""Beam search finds what transformers' finds, and each prompt as if it were alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from phi3svc.api.beam_search import BeamResult, beam_search
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.errors import EngineFailed, InvalidRequest, PromptTooLong
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from tests.model import oracle
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

PAD = 299
ORIGINAL = 24


@pytest.fixture(scope="module", params=[None, ORIGINAL], ids=["plain", "longrope"])
def folder(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint) -> Path:
    return checkpoint(original=request.param)


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    return load_network(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    model = oracle.load(folder)
    # Nothing of the checkpoint's own: what a test does not say is transformers' default.
    model.generation_config = transformers.GenerationConfig()
    return model


def search(
    network: Network,
    prompts: list[list[int]],
    settings: dict[str, Any],
    num_new: int = 12,
    **arguments: Any,
) -> list[BeamResult]:
    config = GenerationConfig().updated(**settings)
    return beam_search(
        network, prompts, config, max_new_tokens=[num_new] * len(prompts), **arguments
    )


def padded(rows: list[list[int]], fill: int, width: int) -> list[list[int]]:
    return [row + [fill] * (width - len(row)) for row in rows]


def assert_same(results: list[BeamResult], out: Any, prompt_len: int, num_beams: int) -> None:
    """Tokens, scores, beam indices; and, while a prompt is searched, every step's scores."""
    expected = out.sequences[:, prompt_len:]
    width = expected.shape[1]
    sequences = [ids for result in results for ids in result.sequences]
    assert padded(sequences, PAD, width) == expected.tolist()
    scores = torch.tensor([score for result in results for score in result.scores])
    torch.testing.assert_close(scores, out.sequences_scores, atol=1e-4, rtol=1e-5)
    indices = [
        [row * num_beams + beam for beam in beams]
        for row, result in enumerate(results)
        for beams in result.beam_indices
    ]
    assert padded(indices, -1, width) == out.beam_indices.tolist()
    for row, result in enumerate(results):
        rows = slice(row * num_beams, (row + 1) * num_beams)
        for ours, step, raw, logits in zip(
            result.step_scores, out.scores, result.step_logits, out.logits, strict=False
        ):
            torch.testing.assert_close(ours, step[rows], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(raw, logits[rows], atol=1e-4, rtol=1e-5)
    assert max(len(result.step_scores) for result in results) == len(out.scores)


def generate(model: Any, prompts: list[list[int]], num_new: int, **settings: Any) -> Any:
    """transformers' own, left-padded."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=num_new,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **settings,
    )


def random_settings(source: random.Random) -> tuple[dict[str, Any], list[int]]:
    num_beams = source.choice([2, 3, 4, 6])
    settings = {
        "num_beams": num_beams,
        "num_return_sequences": source.randint(1, num_beams),
        "length_penalty": source.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
        "early_stopping": source.choice([True, False, "never"]),
        "repetition_penalty": source.choice([1.0, 1.3]),
        "min_new_tokens": source.choice([None, 3]),
    }
    return settings, source.sample(range(256), source.choice([1, 3, 60]))


SAMPLING: list[dict[str, Any]] = [
    {},
    {"do_sample": True},
    {"do_sample": True, "top_k": 2, "temperature": 1.7},
    {"do_sample": True, "top_k": None, "top_p": 0.6},
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("case", range(6))
def test_as_in_transformers(
    network: Network, theirs: Any, sampling: dict[str, Any], case: int
) -> None:
    """One prompt; with LongRoPE most cases cross. With one seed even the draws are the same."""
    source = random.Random(case)
    settings, eos = random_settings(source)
    prompt = random_ids(source.randint(1, 30), seed=case)
    num_new = source.randint(4, 25)
    torch.manual_seed(case)
    out = generate(theirs, [prompt], num_new, eos_token_id=eos, **settings, **sampling)
    arguments = {"eos_token_ids": eos, "want_scores": True, "want_logits": True}
    results = search(network, [prompt], settings | sampling, num_new, seeds=[case], **arguments)
    assert_same(results, out, len(prompt), settings["num_beams"])


@pytest.mark.parametrize("case", range(3))
def test_padded_batch_as_in_transformers(checkpoint: MakeCheckpoint, case: int) -> None:
    model = oracle.load(checkpoint())
    model.generation_config = transformers.GenerationConfig()
    settings, eos = random_settings(random.Random(case))
    prompts = [random_ids(n, seed=n) for n in (17, 3, 30, 1)]
    out = generate(model, prompts, 14, eos_token_id=eos, **settings)
    arguments = {"eos_token_ids": eos, "want_scores": True, "want_logits": True}
    results = search(load_network(checkpoint()), prompts, settings, 14, **arguments)
    assert_same(results, out, 30, settings["num_beams"])


def test_crossing_as_without_a_cache(checkpoint: MakeCheckpoint) -> None:
    """transformers computes every step anew: each beam with the factors for its length."""
    model = oracle.load(checkpoint(original=ORIGINAL))
    model.generation_config = transformers.GenerationConfig()
    settings = {"num_beams": 3, "num_return_sequences": 3}
    prompt = random_ids(ORIGINAL - 5)
    out = generate(model, [prompt], 14, use_cache=False, **settings)
    network = load_network(checkpoint(original=ORIGINAL))
    arguments = {"want_scores": True, "want_logits": True}
    assert_same(search(network, [prompt], settings, 14, **arguments), out, len(prompt), 3)


def test_no_stop_token_and_one_beam(network: Network, theirs: Any) -> None:
    prompt = random_ids(9)
    results = search(network, [prompt], {"num_beams": 1}, 20)
    assert results[0].sequences[0] == oracle.greedy(theirs, prompt, 20)
    assert results[0].beam_indices == [[0] * 20]


class StopsOn(transformers.StoppingCriteria):
    """Ends sequences whose last two tokens have an even sum, and all from `length` on."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        is_even = (input_ids[:, -1] + input_ids[:, -2]) % 4 == 0
        return is_even | (input_ids.shape[1] >= self.length)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_stopping_criteria_as_in_transformers(
    network: Network, theirs: Any, early_stopping: bool | str
) -> None:
    prompt, criterion = random_ids(9), StopsOn(19)
    settings = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": early_stopping}
    out = generate(theirs, [prompt], 30, eos_token_id=3, stopping_criteria=[criterion], **settings)

    def should_stop(index: int, sequences: list[list[int]]) -> list[bool]:
        assert index == 0
        return criterion(torch.tensor(sequences), None).tolist()

    arguments = {"eos_token_ids": [3], "want_scores": True, "want_logits": True}
    results = search(network, [prompt], settings, 30, should_stop=should_stop, **arguments)
    assert_same(results, out, len(prompt), 4)


BATCH = [random_ids(n, seed=n) for n in (1, 20, 31, 12)]


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True}], ids=str)
def test_a_prompt_gets_the_same_alone(
    network: Network, kv_dtype: str, sampling: dict[str, Any]
) -> None:
    """To the bit, with neighbours that cross, end early, and have other stop rules."""
    settings = {"num_beams": 3, "num_return_sequences": 2, "repetition_penalty": 1.2} | sampling
    eos = list(range(0, 256, 9))
    arguments = {"eos_token_ids": eos, "want_scores": True, "kv_dtype": kv_dtype}
    asked: dict[int, list[int]] = {row: [] for row in range(len(BATCH))}

    def should_stop(index: int, sequences: list[list[int]]) -> list[bool]:
        prompt = BATCH[index]
        assert all(ids[: len(prompt)] == prompt for ids in sequences)
        asked[index].append(len(sequences[0]) - len(prompt))
        return [len(ids) - len(prompt) > 5 + index for ids in sequences]

    arguments |= {"should_stop": should_stop}
    together = search(network, BATCH, settings, seeds=range(4), **arguments)
    assert all(steps == list(range(1, len(steps) + 1)) for steps in asked.values())
    assert len({len(steps) for steps in asked.values()}) > 1
    del arguments["should_stop"]
    for row, (prompt, result) in enumerate(zip(BATCH, together, strict=True)):
        (alone,) = search(
            network,
            [prompt],
            settings,
            seeds=[row],
            should_stop=lambda _, sequences, row=row: should_stop(row, sequences),
            **arguments,
        )
        assert alone.sequences == result.sequences
        assert alone.scores == result.scores
        assert alone.beam_indices == result.beam_indices
        for ours, others in zip(alone.step_scores, result.step_scores, strict=True):
            assert ours.equal(others)


def test_seeds(network: Network) -> None:
    settings = {"num_beams": 3, "num_return_sequences": 3, "do_sample": True, "temperature": 3.0}
    prompts = [random_ids(5)] * 2

    def answers(**arguments: Any) -> list[list[list[int]]]:
        return [result.sequences for result in search(network, prompts, settings, **arguments)]

    first = answers(seeds=[1, 2])
    assert first == answers(seeds=[1, 2])
    assert first == answers(seeds=[2, 1])[::-1]
    assert first[0] != first[1]
    torch.manual_seed(5)
    drawn = answers()
    assert drawn != answers()
    torch.manual_seed(5)
    assert drawn == answers()
    state = torch.get_rng_state()
    answers(seeds=[1, 2])
    search(network, prompts, {"num_beams": 3})
    assert torch.get_rng_state().equal(state)


def test_an_answer_ends_where_the_context_does(network: Network) -> None:
    context_len = network.config.context_len
    prompt = random_ids(context_len - 3)
    (result,) = search(network, [prompt], {"num_beams": 2, "num_return_sequences": 2}, 100)
    assert [len(answer) for answer in result.sequences] == [3, 3]
    with pytest.raises(PromptTooLong, match=rf"input_ids\[1\]: {context_len} tokens, not at most"):
        search(network, [prompt, random_ids(context_len)], {"num_beams": 2})


@pytest.mark.parametrize(
    ("prompt", "settings", "eos", "message"),
    [
        ([], {}, [], r"input_ids\[0\]: no tokens"),
        ([1, 300], {}, [], r"input_ids\[0\]: token id 300, not in 0\.\.299"),
        ([-1], {}, [], r"input_ids\[0\]: token id -1, not in"),
        ([1], {"num_return_sequences": 3}, [], r"num_return_sequences: 3, not in 1\.\.2"),
        ([1], {"logit_bias": {300: 1.0}}, [], r"logit_bias\[300\]: token 300, not in"),
        ([1], {}, range(300), r"eos_token_id: 300 ids, not at most 299"),
    ],
)
def test_bad_arguments(
    network: Network, prompt: list[int], settings: dict[str, Any], eos: list[int], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        search(network, [prompt], {"num_beams": 2} | settings, eos_token_ids=eos)


def test_stop_tokens_beyond_the_vocabulary_are_none(network: Network) -> None:
    prompt, settings = random_ids(5), {"num_beams": 2, "min_new_tokens": 3}
    with_it = search(network, [prompt], settings, eos_token_ids=[7, 32000])
    assert with_it == search(network, [prompt], settings, eos_token_ids=[7])


def test_memory_is_looked_at_first(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 prompts of 20 tokens with 3 beams and 12 more computed each: 1 + 3 pages, in float32 of 2
    layers, 2 · 2 heads of 16 dims; and W · V scores, kept for all steps if they are wanted."""
    page_bytes = 16 * 2 * (2 * 2 * 16) * 4
    prompts, settings = [random_ids(20)] * 2, {"num_beams": 3}
    needed = 2 * 4 * page_bytes + 2 * 3 * 300 * 4

    def have(num_bytes: int) -> None:
        monkeypatch.setattr("phi3svc.api.beam_checks.free_bytes", lambda device: num_bytes)

    have(needed)
    search(network, prompts, settings, 13)
    have(needed - 1)
    with pytest.raises(InvalidRequest, match=f"num_beams: 3 for 2 prompts need {8 * page_bytes} "):
        search(network, prompts, settings, 13)
    have(needed + 2 * 13 * 3 * 300 * 4 - 1)
    with pytest.raises(InvalidRequest, match="num_beams: 3 for 2 prompts need"):
        search(network, prompts, settings, 13, want_scores=True)


def test_broken_weights_are_told(checkpoint: MakeCheckpoint) -> None:
    network = load_network(checkpoint())
    network.weights.norm.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(EngineFailed, match="NaN"):
        search(network, [random_ids(5)], {"num_beams": 2})
