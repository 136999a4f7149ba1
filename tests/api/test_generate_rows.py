"""A row is, to the bit, what it is alone and what the engine serves for the same request."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.engine.runner import Runner
from phi3svc.errors import InvalidRequest
from phi3svc.model.network import Network
from tests.api.generating import ORIGINAL, left_padded, oracle_model, prompt
from tests.engine.core_runs import make_core, run

PADDING = 5000  # no token of the model
SAMPLED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.3,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.001,
    "typical_p": 0.99,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "logit_bias": {7: 2.0, 9: -3.0},
    "min_new_tokens": 4,
    "eos_token_id": list(range(0, 256, 5)),
    "pad_token_id": PADDING,
}
ENGINE_FIELDS = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
)
# Answers that stay below, cross, and begin beyond LongRoPE's original length.
ROWS = [prompt(n) for n in (1, 5, ORIGINAL - 6, ORIGINAL - 1, ORIGINAL, ORIGINAL + 9)]


def answers(sequences: Tensor, width: int) -> list[list[int]]:
    """What stands behind the prompts' columns, without padding."""
    rows = sequences[:, width:].tolist()
    return [[token_id for token_id in row if token_id != PADDING] for row in rows]


@pytest.mark.parametrize("settings", [{}, SAMPLED | {"seed": 5}], ids=["greedy", "sampled"])
def test_a_batch_is_its_rows(model: Phi3ForCausalLM, path: Path, settings: dict[str, Any]) -> None:
    settings = {"max_new_tokens": 14, "pad_token_id": PADDING} | settings
    batch = left_padded(ROWS)
    together = answers(model.generate(**batch, **settings), batch["input_ids"].shape[1])
    for row, answer in zip(ROWS, together, strict=True):
        alone = Phi3ForCausalLM.from_pretrained(path).generate(torch.tensor([row]), **settings)
        assert answers(alone, len(row)) == [answer]


def test_left_padding_across_the_original_length(model: Phi3ForCausalLM, path: Path) -> None:
    """Where transformers goes wrong with padding: it is right without."""
    oracle = oracle_model(path)
    batch = left_padded(ROWS)
    ours = model.generate(**batch, max_new_tokens=14)
    for row, answer in zip(ROWS, ours[:, batch["input_ids"].shape[1] :], strict=True):
        theirs = oracle.generate(torch.tensor([row]), max_new_tokens=14)[0, len(row) :]
        assert torch.equal(answer[: len(theirs)], theirs)


@pytest.mark.parametrize("num", [1, 3])
def test_rows_are_what_the_engine_serves(model: Phi3ForCausalLM, num: int) -> None:
    settings = SAMPLED | {"max_new_tokens": 14, "seed": 12345, "num_return_sequences": num}
    batch = left_padded(ROWS)
    ours = answers(model.generate(**batch, **settings), batch["input_ids"].shape[1])
    requests = [
        GenerateRequest(
            f"r{i}",
            "tiny",
            row,
            SamplingParams(seed=12345, **{name: SAMPLED[name] for name in ENGINE_FIELDS}),
            14,
            SAMPLED["eos_token_id"],
            min_new_tokens=4,
            n=num,
        )
        for i, row in enumerate(ROWS)
    ]
    served = run(make_core(model.network), list(requests))
    assert ours == [answer.token_ids for answer in served.values()]
    assert len(set(map(tuple, ours))) == len(ours)


def test_a_manual_seed_repeats_a_script(model: Phi3ForCausalLM) -> None:
    rows = torch.tensor([prompt(9)] * 3)

    def draw(seed: int) -> list[list[list[int]]]:
        torch.manual_seed(seed)
        settings = {"do_sample": True, "max_new_tokens": 8, "num_return_sequences": 2}
        return [model.generate(rows, **settings).tolist() for _ in range(2)]

    first, second = draw(1)
    assert len(set(map(tuple, first + second))) == 12
    assert draw(1) == [first, second]
    assert draw(2) != [first, second]


def test_without_sampling_no_random_number_is_taken(model: Phi3ForCausalLM) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model.generate(torch.tensor([prompt(9)]), max_new_tokens=2)
    model.generate(torch.tensor([prompt(9)]), max_new_tokens=2, do_sample=True, seed=4)
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_drawn_from_what_transformers_draws_from(
    model: Phi3ForCausalLM, path: Path
) -> None:
    """First tokens of many draws, and the probabilities in transformers' scores."""
    rows = torch.tensor([prompt(9)])
    settings: dict[str, Any] = {"do_sample": True, "top_k": 6, "temperature": 1.5}
    scores = oracle_model(path).generate(
        rows, max_new_tokens=1, return_dict_in_generate=True, output_scores=True, **settings
    )["scores"][0]
    num_draws = 3000
    torch.manual_seed(0)
    many = rows.expand(num_draws, -1)
    drawn = model.generate(many, max_new_tokens=1, **settings)[:, -1].tolist()
    expected = {i: p for i, p in enumerate(scores[0].softmax(-1).tolist()) if p > 0}
    counts = Counter(drawn)
    assert set(counts) <= set(expected)
    assert len(expected) == 6
    chi2 = sum((counts[i] - num_draws * p) ** 2 / (num_draws * p) for i, p in expected.items())
    assert chi2 < 20.5  # five degrees of freedom: p = 0.001


@pytest.fixture
def engines_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """KV blocks of each engine that is made."""
    made = []

    def make(network: Network, config: EngineConfig, num_blocks: int) -> EngineCore:
        made.append(num_blocks)
        return EngineCore(network, config, num_blocks)

    monkeypatch.setattr("phi3svc.api.engine_runs.EngineCore", make)
    return made


def test_an_engine_is_kept_and_grows(path: Path, engines_made: list[int]) -> None:
    model = Phi3ForCausalLM.from_pretrained(path)
    row = torch.tensor([prompt(60)])
    first = model.generate(row, max_new_tokens=20)
    assert torch.equal(model.generate(row, max_new_tokens=20), first)
    assert torch.equal(model.generate(row, max_new_tokens=400)[:, :80], first)
    assert torch.equal(model.generate(row, max_new_tokens=20), first)
    assert len(engines_made) == 2
    model.generate(row, max_new_tokens=20, num_return_sequences=20, do_sample=True)
    assert engines_made == sorted(set(engines_made))
    assert len(engines_made) == 3


def test_more_rows_than_run_at_once_and_than_memory_holds(
    model: Phi3ForCausalLM,
    path: Path,
    engines_made: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks for few rows: the others wait, or are preempted."""
    rows = torch.tensor([prompt(20, seed) for seed in range(24)])
    expected = model.generate(rows, max_new_tokens=30)
    del engines_made[:]
    monkeypatch.setattr("phi3svc.api.engine_runs.free_bytes", lambda device: 1 << 17)
    small = Phi3ForCausalLM.from_pretrained(path)
    assert torch.equal(small.generate(rows, max_new_tokens=30), expected)
    assert engines_made[0] < 24


def test_a_row_may_take_more_than_half_of_the_memory(
    model: Phi3ForCausalLM, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = torch.tensor([prompt(60)])
    config = model.network.config
    free = 7 * 16 * config.kv_bytes_per_token("float32")
    monkeypatch.setattr("phi3svc.api.engine_runs.free_bytes", lambda device: free)
    alone = Phi3ForCausalLM.from_pretrained(path)
    expected = model.generate(row, max_new_tokens=20)
    assert torch.equal(alone.generate(row, max_new_tokens=20), expected)


def test_an_engine_that_was_interrupted_is_not_used_again(
    model: Phi3ForCausalLM, engines_made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = torch.tensor([prompt(20)])
    expected = model.generate(row, max_new_tokens=6)
    del engines_made[:]
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "begin", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate(row, max_new_tokens=6)
    assert torch.equal(model.generate(row, max_new_tokens=6), expected)
    assert len(engines_made) == 1


def _interrupted(*arguments: object, **more: object) -> None:
    raise KeyboardInterrupt


def test_nothing_is_left_over_after_an_error(model: Phi3ForCausalLM) -> None:
    row = torch.tensor([prompt(20)])
    expected = model.generate(row, max_new_tokens=6)

    def broken(input_ids: Tensor, scores: None) -> bool:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        model.generate(row.expand(3, -1), max_new_tokens=6, stopping_criteria=[broken])
    with pytest.raises(InvalidRequest):
        model.generate(torch.ones(2, 512).long(), max_new_tokens=6)
    assert torch.equal(model.generate(row, max_new_tokens=6), expected)


def test_the_config_of_a_model_is_not_changed(model: Phi3ForCausalLM) -> None:
    before = GenerationConfig(**model.generation_config.to_dict())
    model.generate(torch.tensor([prompt(3)]), max_new_tokens=2, top_k=3, pad_token_id=4)
    assert model.generation_config == before
