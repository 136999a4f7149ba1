"""generate() against transformers' on the same checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.errors import InvalidRequest
from tests.api.generating import ORIGINAL, left_padded, prompt
from tests.model.checkpoints import END_TOKEN_ID, PAD_TOKEN_ID


def ids(length: int, seed: int = 0) -> Tensor:
    return torch.tensor([prompt(length, seed)])


@pytest.fixture(scope="module")
def stopping_id(model: Phi3ForCausalLM) -> int:
    """A token that the greedy answer to ids(10) has, not at its beginning."""
    answer = model.generate(ids(10), max_new_tokens=8)[0, 10:].tolist()
    return next(token_id for token_id in answer[3:] if token_id not in answer[:3])


GREEDY: dict[str, dict[str, Any]] = {
    "new tokens": {"max_new_tokens": 9},
    "all tokens": {"max_length": 25},
    "both": {"max_length": 12, "max_new_tokens": 5},
    "penalty": {"max_new_tokens": 12, "repetition_penalty": 1.7},
    "top_k does not count": {"max_new_tokens": 5, "top_k": 1, "temperature": 0.0},
    "no cache": {"max_new_tokens": 5, "use_cache": False},
}


@pytest.mark.parametrize("length", [1, 10, ORIGINAL - 4, ORIGINAL, ORIGINAL + 1])
@pytest.mark.parametrize("settings", GREEDY.values(), ids=GREEDY)
def test_greedy(model: Phi3ForCausalLM, oracle: Any, length: int, settings: dict[str, Any]) -> None:
    if settings.get("max_length", 99) <= length and "max_new_tokens" not in settings:
        settings = settings | {"max_length": length + 3}
    ours = model.generate(ids(length), **settings)
    assert isinstance(ours, Tensor)
    assert ours.dtype == torch.int64
    assert torch.equal(ours, oracle.generate(ids(length), **settings))


def test_twenty_tokens_when_nothing_is_said(model: Phi3ForCausalLM) -> None:
    assert model.generate(ids(10)).shape == (1, 30)


def test_the_end_of_the_context_ends_a_row(model: Phi3ForCausalLM) -> None:
    context_len = model.network.config.context_len
    assert model.generate(ids(context_len - 3), max_new_tokens=9).shape == (1, context_len)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pad_token_id": 5},
        {"min_new_tokens": 6},
        {"min_length": 18},
        {"min_length": 18, "min_new_tokens": 2},
        {"min_new_tokens": 99},
        {"eos_token_id": None, "pad_token_id": 0},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")
def test_stop_tokens_padding_and_shortest_answers(
    model: Phi3ForCausalLM, oracle: Any, stopping_id: int, settings: dict[str, Any]
) -> None:
    """Rows of one length, of which one stops early."""
    rows = torch.cat([ids(10), ids(10, seed=1), ids(10, seed=2)])
    settings = {"max_new_tokens": 12, "eos_token_id": [stopping_id, 299]} | settings
    settings["attention_mask"] = torch.ones_like(rows)
    assert torch.equal(model.generate(rows, **settings), oracle.generate(rows, **settings))


def test_padding_is_the_first_stop_id_when_there_is_no_other(
    model: Phi3ForCausalLM, oracle: Any, stopping_id: int
) -> None:
    rows = torch.cat([ids(10), ids(10, seed=1)])
    settings: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": [stopping_id, PAD_TOKEN_ID]}
    ours = model.generate(rows, attention_mask=torch.ones_like(rows), **settings)
    assert torch.equal(ours, oracle.generate(rows, **settings))
    assert (ours == stopping_id).sum() > 1


def test_left_padding(model: Phi3ForCausalLM, oracle: Any) -> None:
    """Below the original length, where transformers is right."""
    batch = left_padded([prompt(n) for n in (3, 17, 9)])
    ours = model.generate(**batch, max_new_tokens=10)
    assert torch.equal(ours, oracle.generate(**batch, max_new_tokens=10))


def test_padding_is_told_by_its_id_unless_that_stops_too(
    model: Phi3ForCausalLM, oracle: Any
) -> None:
    batch = left_padded([prompt(n) for n in (3, 17)], pad_id=299)["input_ids"]
    settings = {"max_new_tokens": 6, "pad_token_id": 299}
    inferred = model.generate(batch, **settings)
    assert torch.equal(inferred, oracle.generate(batch, **settings))
    taken = model.generate(batch, eos_token_id=[END_TOKEN_ID, 299], **settings)
    assert torch.equal(taken, oracle.generate(batch, eos_token_id=[END_TOKEN_ID, 299], **settings))
    assert not torch.equal(inferred[0], taken[0])


def test_holes_in_a_mask(model: Phi3ForCausalLM, oracle: Any) -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 0, 1, 1]])
    ours = model.generate(ids(8), attention_mask=mask, max_new_tokens=8)
    assert torch.equal(ours, oracle.generate(ids(8), attention_mask=mask, max_new_tokens=8))


def test_right_padding_is_not_read(model: Phi3ForCausalLM) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    padded = model.generate(ids(7), attention_mask=mask, max_new_tokens=8)
    alone = model.generate(ids(7)[:, :5], max_new_tokens=8)
    assert torch.equal(padded[:, 7:], alone[:, 5:])


def test_inputs_in_every_form(model: Phi3ForCausalLM) -> None:
    batch = left_padded([prompt(n) for n in (3, 17)])
    expected = model.generate(**batch, max_new_tokens=4)
    encoding = transformers.BatchEncoding(batch | {"token_type_ids": batch["input_ids"]})
    input_ids, mask = batch["input_ids"], batch["attention_mask"]
    for ours in (
        model.generate(input_ids, attention_mask=mask, max_new_tokens=4),
        model.generate(inputs=input_ids.int(), attention_mask=mask.bool(), max_new_tokens=4),
        model.generate(input_ids, attention_mask=mask.float(), max_new_tokens=4),
        model.generate(encoding, max_new_tokens=4),
        model.generate(**encoding, max_new_tokens=4),
    ):
        assert torch.equal(ours, expected)


def test_no_input_is_the_bos_token(model: Phi3ForCausalLM, oracle: Any) -> None:
    assert torch.equal(model.generate(max_new_tokens=4), oracle.generate(max_new_tokens=4))


def test_settings_of_model_config_and_arguments(path: Path, oracle: Any) -> None:
    model = Phi3ForCausalLM.from_pretrained(path)
    config = transformers.GenerationConfig(max_new_tokens=4, repetition_penalty=1.9)
    theirs = oracle.generate(ids(10), generation_config=config)
    assert torch.equal(model.generate(ids(10), config), theirs)
    assert torch.equal(model.generate(ids(10), config.to_dict()), theirs)
    model.generation_config.repetition_penalty = 1.9
    assert torch.equal(model.generate(ids(10), max_new_tokens=4), theirs)
    assert torch.equal(
        model.generate(ids(10), config, repetition_penalty=1.0, max_new_tokens=6),
        oracle.generate(ids(10), max_new_tokens=6),
    )


def test_what_asks_for_nothing_is_taken(model: Phi3ForCausalLM) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("past_key_values", "inputs_embeds", "assistant_model", "negative_prompt_ids", "tokenizer")
    )
    ours = model.generate(
        ids(5),
        logits_processor=transformers.LogitsProcessorList(),
        prompt_lookup_num_tokens=3,
        max_new_tokens=2,
        **nothing,
    )
    assert torch.equal(ours, model.generate(ids(5), max_new_tokens=2))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("inputs", {"inputs": ids(3), "input_ids": ids(3)}),
        ("inputs", {"inputs": {"attention_mask": ids(3)}}),
        ("input_ids", {"inputs": [[1, 2]]}),
        ("input_ids", {"inputs": torch.tensor([1, 2])}),
        ("input_ids", {"inputs": torch.tensor([[1.0]])}),
        ("input_ids", {"inputs": torch.empty((0, 3), dtype=torch.int64)}),
        ("input_ids", {"inputs": torch.tensor([[1], [300]])}),
        ("input_ids", {"inputs": torch.tensor([[-1]])}),
        ("attention_mask", {"inputs": ids(3), "attention_mask": torch.ones(1, 2).long()}),
        ("attention_mask", {"inputs": ids(3), "attention_mask": torch.zeros(1, 3).long()}),
        ("input", {"inputs": torch.ones(1, 512).long()}),
        ("bos_token_id", {"bos_token_id": None}),
        ("max_length", {"inputs": ids(5), "max_length": 5}),
        ("temperature", {"inputs": ids(5), "temperature": 0.0, "do_sample": True}),
        ("num_return_sequences", {"inputs": ids(5), "num_return_sequences": 2}),
        ("num_return_sequences", {"inputs": ids(5), "num_return_sequences": 3, "num_beams": 2}),
        ("sampling.logit_bias[300]", {"inputs": ids(5), "logit_bias": {300: 1.0}}),
        ("logits_processor", {"inputs": ids(5), "logits_processor": [lambda i, s: s]}),
        ("assistant_model", {"inputs": ids(5), "assistant_model": object()}),
        ("no_repeat_ngram_size", {"inputs": ids(5), "no_repeat_ngram_size": 2}),
        ("past_key_values", {"inputs": ids(5), "past_key_values": object()}),
        ("inputs_embeds", {"inputs_embeds": torch.zeros(1, 3, 64)}),
        ("temprature", {"inputs": ids(5), "temprature": 1.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_field(
    model: Phi3ForCausalLM, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.generate(**arguments)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_loop_that_hands_a_cache_on_is_told_that_none_is_needed(model: Phi3ForCausalLM) -> None:
    cache = model(ids(5)).past_key_values
    with pytest.raises(InvalidRequest, match="not needed here: what a prompt begins with"):
        model.generate(ids(6), past_key_values=cache)
    output = model.generate(ids(5), max_new_tokens=2, return_dict_in_generate=True)
    assert not isinstance(output, Tensor)
    assert output.past_key_values is None  # which is taken
    model.generate(ids(6), past_key_values=output.past_key_values, max_new_tokens=2)


def test_answers_that_memory_cannot_hold(
    model: Phi3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3svc.api.memory.free_bytes", lambda device: 1000)
    monkeypatch.setattr("phi3svc.api.memory._UNCHECKED", 0)
    with pytest.raises(InvalidRequest, match="max_new_tokens: the keys and values of"):
        Phi3ForCausalLM.from_network(model.network).generate(ids(5), max_new_tokens=100)
    scores = {"return_dict_in_generate": True, "output_scores": True}
    with pytest.raises(InvalidRequest, match="max_new_tokens: the scores of 100 tokens"):
        model.generate(ids(5), max_new_tokens=100, **scores)
