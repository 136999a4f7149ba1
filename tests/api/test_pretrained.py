"""Where models come from, and what scripts ask of them, against transformers."""

from __future__ import annotations

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
from phi3svc.config.checkpoint import Checkpoint
from phi3svc.errors import ConfigError
from phi3svc.model import loader
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
    with pytest.raises(ConfigError, match=r"Phi3Model: 13\.\d\d GiB of weights; 1\.00 GiB are"):
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
        {"dtype": "bfloat16", "device_map": {"model": "cpu:0", "lm_head": -1}, "device": "cpu:0"},
        {"dtype": "bfloat16", "device": -1, "device_map": torch.device("cpu")},
        {"dtype": "bfloat16", "low_cpu_mem_usage": True, "revision": "main", "token": None},
        {"dtype": "bfloat16", "local_files_only": True, "cache_dir": "/nowhere", "token": "hf_x"},
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
        ({"device": "cuda"}, r"device='cuda': .*CUDA"),
        ({"device": "tpu"}, r"device='tpu': must be cpu, cuda or cuda:N"),
        ({"device_map": "cuda:0"}, r"^device_map='cuda:0': .*CUDA"),
        ({"device_map": {"": 0}, "device": "cuda"}, r"^device_map='cuda:0': .*CUDA"),
        ({"device_map": "cuda", "device": torch.device("cuda:0")}, r"^device_map='cuda:0': "),
        ({"device_map": {"model": "cuda", "lm_head": 0}}, r"^device_map='cuda:0': .*CUDA"),
        ({"device_map": "cuda:1", "device": 0}, "^device_map='cuda:1': must be .* one device, 0"),
        ({"device_map": "disk"}, "^device_map='disk': must be cpu, cuda or cuda:N"),
        ({"device": 0}, r"^device='cuda:0': .*CUDA"),
        ({"device_map": {"model": "cpu", "lm_head": 0}}, "device_map=.*: must be auto or one dev"),
        (
            {"device_map": "cpu", "device": "cuda"},
            "device_map=.*: must be auto or one device, cuda",
        ),
        ({"quantization": "fp8"}, "dtype='fp8': is for CUDA devices"),
        ({"quantization": "int3"}, "quantization='int3': must be one of int8, int4, int4-g32-"),
        ({"quantization": {"bits": 4}}, "quantization={'bits': 4}: must be .*, or None"),
        (
            {"quantization": "int8", "dtype": torch.float32},
            "dtype='float32': must be auto or bfloat16 where quantization is 'int8'",
        ),
        ({"packed_cache": ""}, r"^packed_cache='': must be auto, off or a folder"),
        ({"packed_cache": Path("a\0b")}, r"^packed_cache=.*: must be auto, off or a folder"),
        ({"packed_cache": None}, r"^packed_cache=None: must be auto, off or a folder"),
        ({"dtype": "int3"}, r"dtype='int3'.*float32, bfloat16, int8, int4, int4-g32-min, "),
        ({"load_in_4bit": True}, "load_in_4bit: not an argument"),
        ({"num_labels": 3}, "num_labels is 3; expected as many labels as there are, 0"),
        ({"problem_type": "other"}, "problem_type is 'other'; expected regression or"),
        ({"use_cache": 3}, "use_cache is 3; expected true or false"),
        ({"config": {}}, "config: a dict, must be a phi3svc Phi3Config"),
    ],
)
def test_what_cannot_be_done_is_refused(
    checkpoint: MakeCheckpoint, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Phi3ForCausalLM.from_pretrained(checkpoint(), **options)


@pytest.mark.parametrize(
    ("options", "format"),
    [
        ({"quantization": "int8"}, "int8"),
        ({"quantization": "int4", "dtype": torch.bfloat16}, "int4-g32-min"),
        ({"dtype": "int4-g128"}, "int4-g128"),
    ],
)
def test_linear_weights_are_quantized_and_the_model_computes_in_bfloat16(
    checkpoint: MakeCheckpoint, options: dict[str, Any], format: str
) -> None:
    model = Phi3ForCausalLM.from_pretrained(checkpoint(), **options)
    assert {layer.down.format for layer in model.network.weights.layers} == {format}
    assert model.dtype == torch.bfloat16
    ids = torch.tensor([[1, 2, 3, 4]])
    exact = Phi3ForCausalLM.from_pretrained(checkpoint())(ids).logits
    logits = model(ids).logits
    assert 0 < (logits - exact).norm() < 0.7 * exact.norm()


@pytest.mark.parametrize("is_path", [False, True])
def test_packed_weights_are_kept_where_one_says(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_path: bool
) -> None:
    monkeypatch.setattr(loader, "MIN_CACHED_BYTES", 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path("~/x") if is_path else "~/x"
    Phi3ForCausalLM.from_pretrained(checkpoint(), packed_cache=folder)
    assert len(list((tmp_path / "x").iterdir())) == 1


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


def test_settings_go_before_the_checkpoints(checkpoint: MakeCheckpoint) -> None:
    """Given to from_pretrained, or in a config, or assigned; and they count."""
    path = checkpoint("Phi3ForSequenceClassification", labels=("a", "b", "c"))
    config = Phi3Config.from_pretrained(path)
    config.use_cache = False
    config.id2label = {0: "x", 1: "y", 2: "z"}
    kind = Phi3ForSequenceClassification
    model = kind.from_pretrained(path, config=config, problem_type="regression", pad_token_id=3)
    assert (model.config.use_cache, model.config.problem_type) == (False, "regression")
    assert model.config.labels == ("x", "y", "z")
    ids = torch.tensor([[1, 2, 3]])
    found = model(ids)
    assert found.past_key_values is None
    assert model.model(ids).past_key_values is None
    assert found.logits.equal(kind.from_pretrained(path)(ids[:, :2]).logits)  # the pad token is 3
    model.config.use_cache = True
    assert model(ids).past_key_values is not None


def test_config_of_another_shape_is_refused(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint("Phi3ForSequenceClassification", labels=("a", "b", "c"))
    config = Phi3Config.from_pretrained(path, num_hidden_layers=1)
    with pytest.raises(ConfigError, match="num_hidden_layers is 1; the checkpoint has 2"):
        Phi3ForSequenceClassification.from_pretrained(path, config=config)
    config = Phi3Config.from_pretrained(path, num_labels=5)
    with pytest.raises(ConfigError, match="config: 5 labels; the checkpoint has 3"):
        Phi3ForSequenceClassification.from_pretrained(path, config=config)


@pytest.mark.parametrize(
    ("option", "hint"),
    [("token", "HF_TOKEN"), ("cache_dir", "HF_HOME"), ("local_files_only", "HF_HUB_OFFLINE=1")],
)
def test_settings_of_the_hub_are_the_environments(option: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: set the environment variable {hint}"):
        Phi3ForCausalLM.from_pretrained("org/name", **{option: "x"})


def test_class_without_its_head_is_refused(checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(ConfigError, match="no token-classification head; its heads: generation"):
        Phi3ForTokenClassification.from_pretrained(checkpoint())


@pytest.mark.parametrize("name", sorted(phi3svc.__all__))
def test_public_name_loads(name: str) -> None:
    assert getattr(phi3svc, name) is not None
    assert name in dir(phi3svc)
