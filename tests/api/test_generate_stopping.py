"""Where answers end: stop strings, the caller's criteria, time."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.api.stopping import StopStrings
from phi3svc.engine.core import EngineCore
from phi3svc.errors import InvalidRequest
from phi3svc.text import tokenizer as text_tokenizer
from tests.api.generating import left_padded, prompt
from tests.model.checkpoints import write_tokenizer
from tests.model.conftest import MakeCheckpoint


@pytest.fixture(scope="module")
def path(checkpoint: MakeCheckpoint) -> Path:
    return checkpoint()


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


ROWS = torch.tensor([prompt(12, seed) for seed in range(4)])
MASK = torch.ones_like(ROWS)


@pytest.fixture(scope="module")
def texts(model: Phi3ForCausalLM, tokenizer: Any) -> list[str]:
    """Greedy answers, as text."""
    answers = model.generate(ROWS, attention_mask=MASK, max_new_tokens=20)[:, 12:]
    return [tokenizer.decode(answer) for answer in answers]


def test_stop_strings(
    model: Phi3ForCausalLM, oracle: Any, tokenizer: Any, texts: list[str]
) -> None:
    runs = [re.findall("[ -~]+", text) for text in texts]  # random bytes are seldom UTF-8
    strings = [runs[0][1], runs[1][1], runs[2][1], "never there"]
    settings: dict[str, Any] = {"max_new_tokens": 20, "pad_token_id": 299, "attention_mask": MASK}
    ours = model.generate(ROWS, stop_strings=strings, tokenizer=tokenizer, **settings)
    theirs = oracle.generate(ROWS, stop_strings=strings, tokenizer=tokenizer, **settings)
    assert torch.equal(ours, theirs)
    assert (ours == 299).any(dim=1).sum() >= 2


def test_a_stop_string_needs_a_tokenizer(model: Phi3ForCausalLM) -> None:
    with pytest.raises(InvalidRequest, match=r"^tokenizer: needed to find stop_strings"):
        model.generate(ROWS, stop_strings="a", max_new_tokens=3)


def tokenizer_of(words: list[str]) -> Any:
    """transformers' tokenizer whose first tokens are `words`; letters follow."""
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*words, *"abcdefghijkl"]))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    "strings", [["stop"], ["ab", "ba"], ["aaa"], ["pst", "oo"], ["p"]], ids=str
)
def test_every_sequence_of_tokens_against_transformers(strings: list[str]) -> None:
    """Tokens that hold a string, begin or end inside it, or begin before and end behind it."""
    words = ["st", "stop", "o", "ps", "xstopx", "p", "a", "ab", "aab", "topst"]
    tokenizer = tokenizer_of(words)
    ours = StopStrings(strings, tokenizer)
    theirs = transformers.StopStringCriteria(tokenizer, strings)
    found = 0
    for ids in itertools.product(range(len(words)), repeat=3):
        expected = bool(theirs(torch.tensor([ids]), None))
        assert ours.are_completed(ids[:1], ids[1:]) == expected, [words[i] for i in ids]
        found += expected
    assert 0 < found < len(words) ** 3


def test_characters_of_several_tokens(tmp_path: Path) -> None:
    """Bytes of a character, one token each; this package's tokenizer does as well."""
    write_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [*"€é".encode(), 261, 33]
    for tokenizer in (theirs, text_tokenizer.Tokenizer.from_dir(tmp_path)):
        strings = StopStrings(["é", "<|end|>"], tokenizer)
        found = [strings.are_completed([], ids[:n]) for n in range(1, len(ids) + 1)]
        assert found == [False, False, False, False, True, True, False]


def test_a_string_over_many_tokens(tokenizer: Any) -> None:
    text = "a long one, €"
    strings = StopStrings([text], tokenizer)
    ids = list(f"b{text}".encode())
    assert strings.are_completed(ids[:3], ids[3:])
    assert not strings.are_completed(ids[1:3], ids[3:-1])


class Watcher(StoppingCriteria):
    """Stops rows whose newest token is one of `token_ids`, and notes what it was shown."""

    def __init__(self, token_ids: set[int]) -> None:
        self.token_ids = token_ids
        self.shown: list[list[int]] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.shown += input_ids.tolist()
        return torch.tensor([row[-1] in self.token_ids for row in input_ids.tolist()])


@pytest.fixture(scope="module")
def stopping_ids(model: Phi3ForCausalLM) -> set[int]:
    return set(model.generate(ROWS, attention_mask=MASK, max_new_tokens=7)[:2, -1].tolist())


def test_criteria(model: Phi3ForCausalLM, oracle: Any, stopping_ids: set[int]) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 20, "pad_token_id": 299, "attention_mask": MASK}
    ours = model.generate(
        ROWS, stopping_criteria=StoppingCriteriaList([Watcher(stopping_ids)]), **settings
    )
    theirs = oracle.generate(
        ROWS, stopping_criteria=StoppingCriteriaList([Watcher(stopping_ids)]), **settings
    )
    assert torch.equal(ours, theirs)
    assert (ours[:2, -1] == 299).all()


def test_a_criterion_is_shown_each_row_with_its_padding(model: Phi3ForCausalLM) -> None:
    batch = left_padded([prompt(3), prompt(5)])
    watcher = Watcher(set())
    sequences = model.generate(**batch, max_new_tokens=4, stopping_criteria=[watcher]).tolist()
    expected = [row[: 5 + n] for row in sequences for n in (1, 2, 3, 4)]
    assert sorted(watcher.shown) == sorted(expected)


def test_a_criterion_is_shown_beams_with_their_padding(model: Phi3ForCausalLM) -> None:
    batch = left_padded([prompt(3), prompt(5)])
    watcher = Watcher(set())
    model.generate(**batch, num_beams=2, max_new_tokens=3, stopping_criteria=[watcher])
    assert {len(row) for row in watcher.shown} == {6, 7, 8}
    assert {tuple(row[:5]) for row in watcher.shown} == set(map(tuple, batch["input_ids"].tolist()))


def test_a_criterion_stops_one_of_a_prompts_answers(model: Phi3ForCausalLM) -> None:
    settings: dict[str, Any] = {"do_sample": True, "seed": 1, "max_new_tokens": 8}
    row, settings["num_return_sequences"] = ROWS[:1], 3
    free = model.generate(row, **settings)
    token_id = int(free[1, 14])
    assert token_id not in free[[0, 2]]
    stopped = model.generate(
        row, stopping_criteria=Watcher({token_id}), pad_token_id=299, **settings
    )
    free[1, 15:] = 299
    assert torch.equal(stopped, free)


@pytest.mark.parametrize("answer", [True, torch.tensor([True]), torch.tensor(True)], ids=str)
def test_answers_of_criteria(model: Phi3ForCausalLM, answer: object) -> None:
    stopped = model.generate(ROWS, stopping_criteria=[lambda ids, scores: answer], max_new_tokens=5)
    assert stopped.shape == (4, 13)


def test_what_is_stopped_is_computed_no_further(
    model: Phi3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = EngineCore.step
    monkeypatch.setattr(EngineCore, "step", lambda core: steps.append(1) or step(core))
    model.generate(ROWS, stopping_criteria=lambda ids, scores: True, max_new_tokens=400)
    assert len(steps) < 5


@pytest.mark.parametrize("criteria", [[lambda ids, scores: torch.tensor([True, False])], [5]])
def test_criteria_that_are_none(model: Phi3ForCausalLM, criteria: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^stopping_criteria: "):
        model.generate(ROWS, stopping_criteria=criteria, max_new_tokens=5)


def test_criteria_and_stop_strings_of_beams(
    model: Phi3ForCausalLM, oracle: Any, tokenizer: Any, stopping_ids: set[int], texts: list[str]
) -> None:
    settings: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 12, "pad_token_id": 299}
    strings = [re.findall("[ -~]+", text)[0] for text in texts]
    for row in ROWS.split(1):
        for extra in (
            {"stopping_criteria": [Watcher(stopping_ids)]},
            {"stop_strings": strings, "tokenizer": tokenizer},
        ):
            theirs = extra | {
                name: StoppingCriteriaList(value)
                for name, value in extra.items()
                if name == "stopping_criteria"
            }
            ours = model.generate(row, **extra, **settings)
            assert torch.equal(ours, oracle.generate(row, **theirs, **settings))


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["tokens", "beams"])
def test_time(model: Phi3ForCausalLM, settings: dict[str, Any]) -> None:
    def slow(input_ids: Tensor, scores: None) -> bool:
        time.sleep(0.02)
        return False

    start_s = time.monotonic()
    ours = model.generate(
        ROWS[:1], stopping_criteria=slow, max_time=0.1, max_new_tokens=400, **settings
    )
    assert time.monotonic() - start_s < 4
    assert 12 < ours.shape[1] < 40


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["tokens", "beams"])
def test_no_time_at_all_is_one_step(
    model: Phi3ForCausalLM, oracle: Any, settings: dict[str, Any]
) -> None:
    settings = {"max_time": 0.0, "max_new_tokens": 5, "attention_mask": MASK} | settings
    assert torch.equal(model.generate(ROWS, **settings), oracle.generate(ROWS, **settings))
