"""Phi3Config as scripts make it, ask it and change it, against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import phi3svc
from phi3svc.api.configuration import Phi3Config
from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.config import model as model_config
from phi3svc.errors import ConfigError
from tests.model.checkpoints import longrope, make_config
from tests.model.conftest import MakeCheckpoint

TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 257,
    "eos_token_id": 257,
}


def test_config_without_arguments_is_minis() -> None:
    ours, full = Phi3Config(), transformers.Phi3Config()
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "use_cache"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "bos_token_id"),
        *("original_max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "model_type"),
        *("eos_token_id", "pad_token_id", "sliding_window", "initializer_range"),
    ):
        assert getattr(ours, name) == getattr(full, name), name
    assert ours.head_dim == 96


def test_config_takes_transformers_keywords() -> None:
    rope = longrope(16, 32)
    ours = Phi3Config(**TINY, rope_parameters=rope, num_labels=3, attention_dropout=0.0)
    assert ours.head_dim == 16
    assert ours.rope.long_factor == tuple(rope["long_factor"])
    assert ours.num_labels == 3
    assert ours.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert ours.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert ours.eos_token_id == 257
    assert Phi3Config(**(TINY | {"eos_token_id": [5, 3]})).eos_token_id == [3, 5]
    assert Phi3Config(**(TINY | {"eos_token_id": None})).eos_token_id is None
    with pytest.raises(ConfigError, match="num_hidden_layers is -1"):
        Phi3Config(num_hidden_layers=-1)
    # and what transformers' own to_dict() gives
    ours = Phi3Config(**make_config(original=32, num_labels=3).to_dict())
    assert (ours.hidden_size, ours.num_labels) == (64, 3)


def test_config_of_a_checkpoint(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint(original=32)
    config = phi3svc.AutoConfig.from_pretrained(path, trust_remote_code=True)
    assert config == Phi3ForCausalLM.from_pretrained(path).config
    assert config.eos_token_id == [257, 261]
    assert isinstance(config, model_config.Phi3Config)


def test_use_cache_and_range_come_from_the_file(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    values = json.loads((checkpoint() / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(values | {"use_cache": False, "initializer_range": 0.5, "dtype": "float32"})
    )
    config = Phi3Config.from_pretrained(tmp_path)
    assert (config.use_cache, config.initializer_range) == (False, 0.5)


ASKED = (
    *("architectures", "attention_dropout", "hidden_act", "is_encoder_decoder", "name_or_path"),
    *("rope_parameters", "rope_scaling", "torch_dtype", "transformers_version", "return_dict"),
    *("output_hidden_states", "num_labels", "id2label", "label2id", "problem_type", "resid_pdrop"),
)


def test_what_scripts_ask_of_a_config(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForTokenClassification", labels=("a", "b", "c"), original=32)
    full: Any = transformers.AutoConfig.from_pretrained(path)
    model = phi3svc.AutoModelForTokenClassification.from_pretrained(path)
    for config in (Phi3Config.from_pretrained(path), model.config):
        for name in ASKED:
            assert getattr(config, name) == getattr(full, name), name
        assert config.get_text_config().hidden_size == 64
        assert config.rope_theta == 10000.0
        assert not hasattr(config, "text_config")


def test_older_dialect_answers_as_well(tmp_path: Path) -> None:
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    values = {"model_type": "phi3", "max_position_embeddings": 64, "rope_scaling": rope} | TINY
    values |= {"original_max_position_embeddings": 32, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config: Any = Phi3Config.from_pretrained(tmp_path)
    assert config.rope_scaling == config.rope_parameters == rope
    assert config.torch_dtype == torch.bfloat16
    assert config.hidden_act == "silu"


@pytest.mark.parametrize("architecture", ["Phi3ForCausalLM", "Phi3ForTokenClassification"])
def test_dict_makes_the_same_config(checkpoint: MakeCheckpoint, architecture: str) -> None:
    labels = {"labels": ("a", "b", "c")} if "Token" in architecture else {}
    config = Phi3Config.from_pretrained(checkpoint(architecture, original=32, **labels))
    config.use_cache = False
    again = Phi3Config(**json.loads(config.to_json_string()))
    assert again.to_dict() == json.loads(again.to_json_string(), object_hook=_ints)
    assert again.updated(generation=config.generation) == config
    assert again.use_cache is False


def _ints(values: dict[str, Any]) -> dict[Any, Any]:
    """JSON has no integer keys."""
    return {int(key) if key.isdigit() else key: value for key, value in values.items()}


def test_fields_go_before_the_file(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForSequenceClassification", labels=("a", "b", "c"))
    config = Phi3Config.from_pretrained(path, use_cache=False, num_hidden_layers=1, num_labels=5)
    assert (config.use_cache, config.num_hidden_layers, config.num_labels) == (False, 1, 5)
    assert config.eos_token_id == [257, 261]
    assert Phi3Config.from_pretrained(path, eos_token_id=7).eos_token_id == 7
    with pytest.raises(ConfigError, match="hidden_size is 0"):
        Phi3Config.from_pretrained(path, hidden_size=0)


def test_settings_can_be_assigned() -> None:
    config: Any = Phi3Config(**TINY, num_labels=2)
    config.pad_token_id = config.eos_token_id
    config.update({"use_cache": False, "eos_token_id": [5, 3], "bos_token_id": None})
    config.problem_type = "regression"
    config.label2id = {"no": 0, "yes": 1}
    config.pretraining_tp = 1
    config.output_hidden_states = False
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (257, [3, 5], None)
    assert (config.use_cache, config.problem_type) == (False, "regression")
    assert (config.labels, config.pretraining_tp) == (("no", "yes"), 1)
    copy: Any = config.updated(rms_norm_eps=0.5)
    assert (copy.pretraining_tp, copy.labels, copy.rms_norm_eps) == (1, ("no", "yes"), 0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", 32, "hidden_size: cannot change; make a new config"),
        ("rope_theta", 1.0, "rope_theta: cannot change"),
        ("use_cache", "no", "use_cache is 'no'; expected true or false"),
        ("pad_token_id", -1, "pad_token_id is -1; expected an integer from 0"),
        ("eos_token_id", "x", "eos_token_id is 'x'"),
        ("problem_type", "other", "problem_type is 'other'; expected regression or"),
        ("num_labels", 3, "num_labels is 3; expected as many labels as there are, 2"),
        ("id2label", {0: "a"}, "id2label is .*; expected as many labels as there are, 2"),
        ("label2id", {"a": 0, "b": 7}, "id2label is .*under the keys 0, 1, 2"),
        ("output_hidden_states", True, "output_hidden_states=True: must be an argument of each"),
    ],
)
def test_bad_assignment_is_named(name: str, value: object, message: str) -> None:
    config = Phi3Config(**TINY, num_labels=2)
    with pytest.raises(ConfigError, match=message):
        setattr(config, name, value)
    assert config == Phi3Config(**TINY, num_labels=2)
