"""GenerationConfig: transformers' names and defaults, and what goes before what."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.generation_fields import CHECKS, IGNORED, UNSUPPORTED
from phi3svc.errors import ConfigError, InvalidRequest
from tests.model.checkpoints import BOS_TOKEN_ID, END_TOKEN_ID, PAD_TOKEN_ID
from tests.model.conftest import MakeCheckpoint

OURS = {"presence_penalty", "frequency_penalty", "logit_bias", "seed"}
THEIRS = transformers.GenerationConfig._get_default_generation_params()


def test_every_field_of_transformers_is_known() -> None:
    fields = {name for name in vars(transformers.GenerationConfig()) if name[0] != "_"}
    assert fields - IGNORED - set(UNSUPPORTED) == set(CHECKS) - OURS


@pytest.mark.parametrize("name", sorted(set(CHECKS) & set(THEIRS)))
def test_defaults_are_those_of_transformers(name: str) -> None:
    assert getattr(GenerationConfig(), name) == THEIRS[name]


def test_fields_that_are_off_in_transformers_are_taken() -> None:
    assert GenerationConfig(**(THEIRS | {"cache_implementation": "static"})).top_k == 50


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_is_missing_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: not an argument"):
        GenerationConfig(**{name: 7})
    with pytest.raises(InvalidRequest, match=f"^{name}: not an argument"):
        setattr(GenerationConfig(), name, 7)


def test_typing_errors_are_refused_together() -> None:
    with pytest.raises(InvalidRequest, match=r"^max_tokens, temprature: not arguments"):
        GenerationConfig(temprature=1, top_k=3, max_tokens=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_length", 0),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("min_length", -1),
        ("early_stopping", "always"),
        ("max_time", float("nan")),
        ("stop_strings", [""]),
        ("stop_strings", []),
        ("stop_strings", 3),
        ("do_sample", 1),
        ("num_beams", 65),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("length_penalty", float("inf")),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {5: 101}),
        ("logit_bias", [5]),
        ("num_return_sequences", 65),
        ("pad_token_id", -1),
        ("eos_token_id", [3, -1]),
        ("eos_token_id", []),
        ("seed", 1 << 64),
    ],
)
def test_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}.*: .*, not "):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"top_k": np.int64(7)}, 7),
        ({"temperature": np.float32(0.5)}, 0.5),
        ({"temperature": 2}, 2.0),
        ({"eos_token_id": torch.tensor([4, 5])}, [4, 5]),
        ({"eos_token_id": 4}, 4),
        ({"stop_strings": ("a", "b")}, ["a", "b"]),
        ({"logit_bias": {np.int32(3): 1}}, {3: 1.0}),
    ],
)
def test_values_become_plain_ones(given: dict[str, Any], kept: object) -> None:
    config = GenerationConfig(**given)
    value = getattr(config, next(iter(given)))
    assert (value, type(value)) == (kept, type(kept))


def test_given_values_go_before_those_below_and_defaults_do_not() -> None:
    of_checkpoint = GenerationConfig(top_k=5, top_p=0.5, temperature=0.5)
    of_call = GenerationConfig(top_k=6, top_p=None, do_sample=True)
    assert of_call.over(of_checkpoint) == GenerationConfig(
        top_k=6, top_p=0.5, temperature=0.5, do_sample=True
    )
    assert of_call.over(of_checkpoint).updated(top_k=7, do_sample=False).top_k == 7
    assert (of_checkpoint.top_k, of_call.top_k) == (5, 6)


def test_ways_to_make_and_change_one(checkpoint: MakeCheckpoint) -> None:
    """As transformers' class has them, of which some scripts make a dict and back."""
    config = GenerationConfig.from_pretrained(checkpoint(), max_new_tokens=4, top_k=3)
    assert (config.max_new_tokens, config.top_k, config.eos_token_id) == (4, 3, [257, 261])
    assert GenerationConfig.from_dict(config.to_dict(), top_k=7).top_k == 7
    theirs = transformers.GenerationConfig(max_new_tokens=5, do_sample=True, top_p=0.5)
    assert GenerationConfig.from_dict(theirs.to_dict()) == GenerationConfig.of(theirs)
    copy = deepcopy(config)
    copy.update(max_new_tokens=9, top_k=None)
    assert (copy.max_new_tokens, copy.is_given("top_k"), config.max_new_tokens) == (9, False, 4)
    with pytest.raises(InvalidRequest, match="top_p"):
        copy.update(max_new_tokens=1, top_p=7)
    assert copy.max_new_tokens == 9


def test_assigned_values_are_given_values() -> None:
    config = GenerationConfig()
    config.pad_token_id = 3
    config.max_new_tokens = 8
    assert config.to_dict() == {"pad_token_id": 3, "max_new_tokens": 8}
    config.max_new_tokens = None
    assert not config.is_given("max_new_tokens")
    assert repr(config) == "GenerationConfig(pad_token_id=3)"


def test_none_among_arguments_switches_off() -> None:
    config = GenerationConfig(
        top_k=9, top_p=0.5, temperature=0.5, eos_token_id=3, max_length=30, min_length=2
    ).updated(
        top_k=None,
        top_p=None,
        temperature=None,
        eos_token_id=None,
        max_length=None,
        min_length=None,
    )
    assert (config.top_k, config.top_p, config.temperature) == (0, 1.0, 1.0)
    assert config.eos_token_ids == ()
    assert (config.max_length, config.min_length) == (30, 2)
    assert config.is_given("max_length")
    assert not GenerationConfig().updated(max_length=None).is_given("max_length")


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 5, "top_k": 7},
        GenerationConfig(max_new_tokens=5, top_k=7),
        transformers.GenerationConfig(max_new_tokens=5, top_k=7),
    ],
)
def test_configs_of_any_kind(given: object) -> None:
    assert GenerationConfig.of(given) == GenerationConfig(max_new_tokens=5, top_k=7)


def test_a_config_of_the_wrong_kind() -> None:
    with pytest.raises(InvalidRequest, match="generation_config: a int, not a GenerationConfig"):
        GenerationConfig.of(5)


def test_transformers_takes_ours() -> None:
    ours = GenerationConfig(max_new_tokens=5, do_sample=True, eos_token_id=[3, 4])
    theirs = transformers.GenerationConfig(**ours.to_dict())
    assert GenerationConfig.of(theirs) == ours


@pytest.fixture
def folder(tmp_path: Path, checkpoint: MakeCheckpoint) -> Path:
    """With a config.json of its own, and no generation_config.json yet."""
    text = (checkpoint() / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def write_generation_config(folder: Path, **values: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


def test_a_checkpoint_without_the_file(folder: Path) -> None:
    assert GenerationConfig.from_dir(folder) == GenerationConfig(
        bos_token_id=BOS_TOKEN_ID, eos_token_id=PAD_TOKEN_ID, pad_token_id=PAD_TOKEN_ID
    )


def test_a_checkpoint_by_its_source(folder: Path) -> None:
    write_generation_config(folder, top_p=0.5)
    assert GenerationConfig.from_pretrained(str(folder)) == GenerationConfig.from_dir(folder)
    assert GenerationConfig.from_pretrained("demo").eos_token_ids


def test_stop_ids_are_those_of_both_files_in_the_order_of_the_first(folder: Path) -> None:
    write_generation_config(folder, eos_token_id=[END_TOKEN_ID, 7, 5000], do_sample=True, top_p=0.9)
    config = GenerationConfig.from_dir(folder)
    assert config.eos_token_id == [END_TOKEN_ID, 7, PAD_TOKEN_ID]
    assert config.padding_id == END_TOKEN_ID
    assert (config.do_sample, config.top_p, config.top_k) == (True, 0.9, 50)


def test_a_checkpoint_of_temperature_zero_is_greedy(folder: Path) -> None:
    write_generation_config(folder, do_sample=True, temperature=0)
    assert not GenerationConfig.from_dir(folder).do_sample


def test_what_a_checkpoint_asks_for_in_vain_is_a_warning(folder: Path) -> None:
    write_generation_config(
        folder, no_repeat_ngram_size=3, transformers_version="5", top_k=3, guidance_scale=1.0
    )
    with pytest.warns(UserWarning, match="no_repeat_ngram_size: not implemented"):
        config = GenerationConfig.from_dir(folder)
    assert config.top_k == 3


def test_a_checkpoint_out_of_range(folder: Path) -> None:
    write_generation_config(folder, max_new_tokens=-1)
    with pytest.raises(ConfigError, match=r"generation_config\.json: max_new_tokens: -1, not an"):
        GenerationConfig.from_dir(folder)
