"""Where models come from, and what scripts ask of them, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import phi3svc
from phi3svc.api import pretrained
from phi3svc.api.configuration import Phi3Config
from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
    Phi3Model,
)
from phi3svc.config import model as model_config
from phi3svc.config.checkpoint import Checkpoint
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
KINDS = [Phi3Model, Phi3ForCausalLM, Phi3ForSequenceClassification, Phi3ForTokenClassification]


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_random_weights(kind: Any, tied: bool) -> None:
    config = Phi3Config(**TINY, tie_word_embeddings=tied, initializer_range=0.1)
    torch.manual_seed(7)
    model, again = kind(config), kind.from_config(config)
    torch.manual_seed(7)
    same = kind(config)
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids)[0].equal(same(ids)[0])
    assert not model(ids)[0].equal(again(ids)[0])
    assert model.num_parameters() == _reference(kind, tied).num_parameters()
    assert model.config.architecture == kind.__name__
    rows = model.get_input_embeddings()(torch.arange(300))
    assert not rows[257].any()  # the pad token's
    assert abs(rows[:257].std() - 0.1) < 0.005
    if kind is Phi3ForTokenClassification:
        assert not model.network.weights.score_bias.any()
    assert model.network.weights.norm.equal(torch.ones(64))


def _reference(kind: Any, tied: bool) -> Any:
    config = transformers.Phi3Config(**TINY, tie_word_embeddings=tied)
    return getattr(transformers, kind.__name__)(config)


def test_random_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "available_bytes", lambda: 1 << 30)
    with pytest.raises(ConfigError, match=r"Phi3Model: 13\.\d GiB of weights; 1\.0 GiB are free"):
        Phi3Model(Phi3Config())


def test_default_dtype_is_that_of_random_weights() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Phi3Model(Phi3Config(**TINY))
        assert model.dtype == torch.bfloat16
        assert model(torch.tensor([[1]])).last_hidden_state.dtype == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"torch_dtype": torch.bfloat16},
        {"torch_dtype": "bfloat16", "device_map": "auto"},
        {"dtype": torch.bfloat16, "device_map": {"": "cpu"}, "trust_remote_code": True},
        {"dtype": "bfloat16", "device": torch.device("cpu"), "attn_implementation": "sdpa"},
        {"dtype": "bfloat16", "low_cpu_mem_usage": True, "revision": "main", "token": None},
    ],
    ids=str,
)
def test_transformers_ways_to_load(checkpoint: MakeCheckpoint, options: dict[str, Any]) -> None:
    model = phi3svc.AutoModelForCausalLM.from_pretrained(checkpoint(), **options)
    assert type(model) is Phi3ForCausalLM
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, r"device='cuda': must be cpu"),
        ({"device_map": "cuda:0"}, r"device_map='cuda:0': must be auto or cpu"),
        ({"device_map": {"model": "cpu", "lm_head": 0}}, "device_map=.*: must be auto or cpu"),
        ({"quantization": "int8"}, "quantization='int8': must be None"),
        ({"dtype": "int3"}, r"dtype='int3'.*float32, bfloat16"),
        ({"token": "hf_x"}, "token: set the environment variable HF_TOKEN"),
        ({"load_in_4bit": True}, "load_in_4bit: not an argument"),
        ({"num_labels": 3}, "num_labels=3: the checkpoint has 0"),
        ({"problem_type": "other"}, "problem_type='other': must be one of regression"),
    ],
)
def test_what_cannot_be_done_is_refused(
    checkpoint: MakeCheckpoint, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Phi3ForCausalLM.from_pretrained(checkpoint(), **options)


def test_revision_is_that_of_a_hub_id(
    checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(source: str) -> Checkpoint:
        asked.append(source)
        return Checkpoint(checkpoint(), "tiny")

    monkeypatch.setattr(pretrained, "resolve_source", resolve)
    for source in ("org/name", "org/name@v1", "demo", checkpoint()):
        Phi3ForCausalLM.from_pretrained(source, revision="abc")
    assert asked == ["org/name@abc", "org/name@v1", "demo", str(checkpoint())]


def test_class_without_its_head_is_refused(checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(ConfigError, match="no token-classification head; its heads: generation"):
        Phi3ForTokenClassification.from_pretrained(checkpoint())


def test_what_scripts_ask_of_a_model(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint()
    model, full = Phi3ForCausalLM.from_pretrained(path), transformers.Phi3ForCausalLM(make_config())
    assert model.eval() is model.train(False) is model.to("cpu") is model.cpu() is model
    assert model.to(torch.device("cpu"), dtype=torch.float32) is model
    assert model.training is False
    assert model.num_parameters() == full.num_parameters()
    assert model.model.num_parameters() == full.model.num_parameters()
    assert model.name_or_path == str(path)
    assert model.generation_config.eos_token_id == [257, 261]
    assert model.get_input_embeddings().num_embeddings == 300
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids, output_hidden_states=True).hidden_states
    assert expected is not None
    assert model.model(ids).last_hidden_state.equal(expected[-1])
    assert model.model.embed_tokens(ids).equal(expected[0])
    with pytest.raises(ConfigError, match="for inference"):
        model.train()
    with pytest.raises(ConfigError, match=r"load it with dtype=torch.bfloat16"):
        model.to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"to\('cuda'\): must be cpu"):
        model.to("cuda")


@pytest.mark.parametrize("name", sorted(phi3svc.__all__))
def test_public_name_loads(name: str) -> None:
    assert getattr(phi3svc, name) is not None
    assert name in dir(phi3svc)


def test_use_cache_and_range_come_from_the_file(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    values = json.loads((checkpoint() / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(values | {"use_cache": False, "initializer_range": 0.5, "dtype": "float32"})
    )
    config = Phi3Config.from_pretrained(tmp_path)
    assert (config.use_cache, config.initializer_range) == (False, 0.5)
