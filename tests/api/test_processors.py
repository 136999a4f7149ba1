"""Processors give the same bits as transformers' of the same rule."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.generation import logits_process as theirs

from phi3svc import ops
from phi3svc.api import logits_processors as ours
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.logits_processors import History, process, processors_for

V = 40
PROMPT_LEN = 5


def random_scores(num_rows: int = 6) -> Tensor:
    """Rows of distinct scores, rows full of ties, and rows with forbidden tokens."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(num_rows, V, generator=generator) * 3
    scores[1::3] = scores[1::3].round()
    scores[2::3, ::4] = -math.inf
    return scores


def random_histories(num_rows: int = 6, num_new: int = 7) -> list[History]:
    source = random.Random(1)
    return [
        History(
            [source.randrange(V) for _ in range(PROMPT_LEN)],
            [source.randrange(V) for _ in range(num_new)],
        )
        for _ in range(num_rows)
    ]


def as_input_ids(histories: list[History]) -> Tensor:
    return torch.tensor([[*history.prompt_ids, *history.answer_ids] for history in histories])


PAIRS: list[tuple[Any, Any]] = [
    (ours.RepetitionPenalty(1.7), theirs.RepetitionPenaltyLogitsProcessor(1.7)),
    (ours.RepetitionPenalty(0.6), theirs.RepetitionPenaltyLogitsProcessor(0.6)),
    (ours.MinLength(13, 0, [3, 9]), theirs.MinLengthLogitsProcessor(13, [3, 9])),
    (ours.MinLength(12, 0, [3, 9]), theirs.MinLengthLogitsProcessor(12, [3, 9])),
    (
        ours.MinLength(0, 8, [3, 9]),
        theirs.MinNewTokensLengthLogitsProcessor(PROMPT_LEN, 8, [3, 9]),
    ),
    (
        ours.MinLength(0, 7, [3, 9]),
        theirs.MinNewTokensLengthLogitsProcessor(PROMPT_LEN, 7, [3, 9]),
    ),
    (ours.Temperature(0.3), theirs.TemperatureLogitsWarper(0.3)),
    *(
        (our_kind(value, keep), their_kind(value, min_tokens_to_keep=keep))
        for our_kind, their_kind, values in (
            (ours.TopK, theirs.TopKLogitsWarper, (1, 3, 1000)),
            (ours.TopP, theirs.TopPLogitsWarper, (0.1, 0.5, 0.95)),
            (ours.MinP, theirs.MinPLogitsWarper, (0.02, 0.3, 1.0)),
            (ours.TypicalP, theirs.TypicalLogitsWarper, (0.1, 0.5, 0.95)),
        )
        for value in values
        for keep in (1, 4)
    ),
]


@pytest.mark.parametrize(("our", "their"), PAIRS, ids=lambda item: type(item).__name__)
def test_as_in_transformers(our: Any, their: Any) -> None:
    histories, scores = random_histories(), random_scores()
    before = scores.clone()
    assert our(histories, scores).equal(their(as_input_ids(histories), scores))
    assert scores.equal(before)


def test_ties_of_the_kth_stay() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    kept = ours.TopK(1)([History([0], [])], scores).isfinite()
    assert kept.tolist() == [[False, True, True, True, False]]


def test_mass_of_exactly_one_minus_p_goes() -> None:
    histories, scores = [History([0], [])], torch.zeros(1, 4)
    kept = ours.TopP(0.5)(histories, scores)
    assert kept.isfinite().sum() == 2
    assert kept.equal(theirs.TopPLogitsWarper(0.5)(as_input_ids(histories), scores))


def test_own_penalties_as_the_sampler_has_them() -> None:
    """Greedy choices of the kernel, while what was chosen before is forbidden, are our order."""
    settings = GenerationConfig(
        repetition_penalty=1.4,
        presence_penalty=0.7,
        frequency_penalty=0.3,
        logit_bias={2: 4.0, 11: -5.0, 7: 1.5},
    )
    histories, scores = random_histories(1, num_new=30), random_scores(1)
    processed = process(processors_for(settings, [3]), histories, scores)
    history = histories[0]
    entries = sorted({*history.prompt_ids, *history.answer_ids})
    bias = dict(settings.logit_bias or {})
    chosen = []
    for _ in range(V):
        out_ids, out_logprobs = torch.empty(1, dtype=torch.int32), torch.empty(1)
        ops.sample(
            scores,
            torch.zeros(1),
            torch.zeros(1, dtype=torch.int32),
            torch.ones(1),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int32),
            torch.zeros(1, dtype=torch.int32),
            out_ids,
            out_logprobs,
            penalties=ops.Penalties(
                repetition=torch.tensor([1.4]),
                presence=torch.tensor([0.7]),
                frequency=torch.tensor([0.3]),
                starts=torch.tensor([0, len(entries)], dtype=torch.int32),
                token_ids=torch.tensor(entries, dtype=torch.int32),
                counts=torch.tensor(
                    [history.answer_ids.count(i) for i in entries], dtype=torch.int32
                ),
            ),
            biases=ops.Biases(
                starts=torch.tensor([0, len(bias)], dtype=torch.int32),
                token_ids=torch.tensor([*bias], dtype=torch.int32),
                values=torch.tensor([*bias.values()]),
            ),
        )
        chosen.append(int(out_ids))
        bias[chosen[-1]] = -math.inf
    assert chosen == processed[0].argsort(descending=True, stable=True).tolist()


def test_penalty_of_occurrences() -> None:
    scores = torch.tensor([[1.0, 1.0, -1.0, 1.0]])
    processed = ours.OccurrencePenalties(0.5, 0.25)([History([3, 3], [1, 2, 1])], scores)
    assert processed.tolist() == [[1.0, 0.0, -1.75, 1.0]]


ALL_SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "min_new_tokens": 8, "temperature": 0.5, "top_k": 3},
    {"min_length": 13},
    {"min_length": 13, "min_new_tokens": 2},
    {"do_sample": True},
    {"do_sample": True, "top_k": None},
    {"do_sample": True, "num_beams": 3, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "typical_p": 0.2},
    {
        "do_sample": True,
        "repetition_penalty": 1.3,
        "min_new_tokens": 8,
        "temperature": 0.5,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.01,
        "typical_p": 0.95,
    },
]


@pytest.mark.parametrize("eos_token_ids", [[3, 9], [3], []], ids=str)
@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=lambda s: "+".join(s) or "none")
def test_settings_as_in_transformers(settings: dict[str, Any], eos_token_ids: list[int]) -> None:
    """The same processors, in the same order, with as many tokens kept for beams."""
    histories, scores = random_histories(), random_scores()
    config = transformers.GenerationConfig(**settings)
    if settings.get("min_new_tokens") is not None:  # as transformers' generate sets it
        config.min_length = PROMPT_LEN + settings["min_new_tokens"]
    for name, value in config._get_default_generation_params().items():
        if getattr(config, name, None) is None and name not in settings:
            setattr(config, name, value)
    config._eos_token_tensor = torch.tensor(eos_token_ids) if eos_token_ids else None
    model = transformers.Phi3ForCausalLM(
        transformers.Phi3Config(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            pad_token_id=0,
        )
    )
    expected = model._get_logits_processor(config, input_ids_seq_length=PROMPT_LEN)(
        as_input_ids(histories), scores
    )
    own = GenerationConfig().updated(**settings)
    assert process(processors_for(own, eos_token_ids), histories, scores).equal(expected)
