"""Phi3Config: both dialects, the rules of LongRoPE, and a one-line error for anything absurd."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import transformers

from phi3svc.config.generation_defaults import GenerationDefaults
from phi3svc.config.model import Phi3Config
from phi3svc.errors import ConfigError
from tests.model.checkpoints import make_config

HALF = 48
MINI: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + i / 100 for i in range(HALF)],
        "long_factor": [1.0 + i for i in range(HALF)],
    },
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}


def mini(**overrides: Any) -> dict[str, Any]:
    """Phi-3-mini-128k's config.json with some fields replaced; a value of ... drops the field."""
    return {k: v for k, v in (MINI | overrides).items() if v is not ...}


def rope(**overrides: Any) -> dict[str, Any]:
    """Phi-3-mini-128k's config.json with some fields of rope_scaling replaced."""
    values = {k: v for k, v in (MINI["rope_scaling"] | overrides).items() if v is not ...}
    return mini(rope_scaling=values)


def test_mini_128k() -> None:
    config = Phi3Config.from_dict(MINI, {"eos_token_id": [32000, 32001, 32007]})
    assert config.task == "generation"
    assert config.is_longrope
    assert (config.head_dim, config.rope.rotary_dim) == (96, 96)
    assert config.rope.attention_factors == pytest.approx((1.1902380714238083,) * 2, abs=1e-15)
    assert config.dtype == "bfloat16"
    assert config.eos_token_ids == (32000, 32001, 32007)
    assert config.num_params == 3_821_079_552
    assert config.kv_bytes_per_token("bfloat16") == 393_216
    assert config.kv_bytes_per_token("int8") == 204_800
    assert [config.rope_set(n) for n in (1, 4096, 4097, 131072)] == [0, 0, 1, 1]
    assert config.generation == GenerationDefaults(False, 1.0, 50, 1.0)


@pytest.mark.parametrize(
    ("shape", "num_params"),
    [
        ((5120, 40, 40, 10, 17920, 32064, False), 13.9602),
        ((5120, 40, 40, 10, 17920, 100352, False), 14.6595),
        ((3072, 32, 24, 8, 8192, 200064, True), 3.8360),
    ],
    ids=["Phi-3-medium", "Phi-4", "Phi-4-mini"],
)
def test_parameter_counts_of_the_family(shape: tuple[Any, ...], num_params: float) -> None:
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size", "tie_word_embeddings",
    )  # fmt: skip
    config = Phi3Config.from_dict(mini(rope_scaling=None) | dict(zip(names, shape, strict=True)))
    assert config.num_params / 1e9 == pytest.approx(num_params, abs=5e-5)


@pytest.mark.parametrize("name", ["su", "longrope", "yarn"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_names_of_longrope_mean_the_same(name: str, key: str) -> None:
    expected = Phi3Config.from_dict(MINI)
    assert Phi3Config.from_dict(rope(**({"type": ...} | {key: name}))) == expected


def test_new_dialect_means_the_same() -> None:
    factors = {k: v for k, v in MINI["rope_scaling"].items() if k != "type"}
    parameters = factors | {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 4096,
    }
    new = mini(
        rope_scaling=..., rope_theta=..., torch_dtype=..., dtype="bfloat16",
        rope_parameters=parameters,
    )  # fmt: skip
    assert Phi3Config.from_dict(new) == Phi3Config.from_dict(MINI)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_position_embeddings": 8192}, math.sqrt(1 + math.log(2) / math.log(4096))),
        ({"max_position_embeddings": 4096}, 1.0),
        ({"max_position_embeddings": 2048}, 1.0),
        ({"original_max_position_embeddings": 8192}, 1.1435437497937313),
        ({"original_max_position_embeddings": ...}, 1.1902380714238083),
    ],
    ids=str,
)
def test_attention_factor_follows_lengths(changes: dict[str, Any], expected: float) -> None:
    config = Phi3Config.from_dict(mini(**changes))
    assert config.rope.attention_factors == pytest.approx((expected, expected), abs=1e-15)


def test_attention_factor_can_be_given() -> None:
    assert Phi3Config.from_dict(rope(attention_factor=1.25)).rope.attention_factors == (1.25, 1.25)
    by_factor = Phi3Config.from_dict(rope(factor=16.0, short_mscale=9.0)).rope.attention_factors
    assert by_factor == pytest.approx((math.sqrt(1 + math.log(16) / math.log(4096)),) * 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_position_embeddings": 4096},
        {"original": 64, "max_position_embeddings": 1000},
        {"original": 64, "hidden_size": 128, "partial_rotary_factor": 0.75},
    ],
    ids=str,
)
def test_rope_equals_what_transformers_computes(changes: dict[str, Any]) -> None:
    theirs = make_config(**changes)
    rotary = transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(theirs)
    ours = Phi3Config.from_dict(theirs.to_dict() | {"architectures": None})
    assert set(ours.rope.attention_factors) == {rotary.attention_scaling}
    assert ours.rope.rotary_dim == 2 * len(rotary.inv_freq)


def test_partial_rotary_and_plain_rope() -> None:
    config = Phi3Config.from_dict(
        mini(rope_scaling=None, num_attention_heads=24, num_key_value_heads=8)
        | {"partial_rotary_factor": 0.75, "sliding_window": None, "max_position_embeddings": 4096}
    )
    assert (config.head_dim, config.rope.rotary_dim) == (128, 96)
    assert not config.is_longrope
    assert config.rope_set(100_000) == 0
    assert config.sliding_window is None


def test_values_inside_rope_parameters_win() -> None:
    config = Phi3Config.from_dict(
        mini(rope_scaling=..., rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    )
    assert config.rope.theta == 5e5
    assert Phi3Config.from_dict(mini(rope_scaling=None, rope_theta=250000)).rope.theta == 250000


def test_ids_beyond_the_vocabulary_never_stop_anything() -> None:
    config = Phi3Config.from_dict(mini(vocab_size=100), {"eos_token_id": [7, 3, 40000]})
    assert config.eos_token_ids == (3, 7)
    assert (config.bos_token_id, config.pad_token_id) == (1, None)
    without = Phi3Config.from_dict(mini(bos_token_id=None, eos_token_id=None, pad_token_id=None))
    assert (without.bos_token_id, without.eos_token_ids, without.pad_token_id) == (None, (), None)


def test_generation_defaults_are_read() -> None:
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}
    config = Phi3Config.from_dict(MINI, sampling)
    assert config.generation == GenerationDefaults(True, 0.8, 0, 0.95)
    assert Phi3Config.from_dict(MINI, {"temperature": 0}).generation.temperature == 0.0
    more = {"min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1}
    config = Phi3Config.from_dict(MINI, more)
    assert config.generation == GenerationDefaults(False, 1.0, 50, 1.0, 0.1, 0.9, 1.1)
    assert Phi3Config.from_dict(MINI, {"min_p": 0}).generation.min_p == 0.0


def test_labels() -> None:
    sequence = {"architectures": ["Phi3ForSequenceClassification"]}
    config = Phi3Config.from_dict(MINI | sequence)
    assert (config.task, config.labels) == ("sequence-classification", ("LABEL_0", "LABEL_1"))
    named = MINI | sequence | {"id2label": {"1": "good", "0": "bad"}, "problem_type": "regression"}
    config = Phi3Config.from_dict(named)
    assert (config.labels, config.problem_type) == (("bad", "good"), "regression")
    assert Phi3Config.from_dict(MINI).labels == ()


SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
OPTIONAL_SIZES = (
    "num_key_value_heads", "original_max_position_embeddings", "sliding_window", "head_dim",
)  # fmt: skip
NOT_A_SIZE = (-1, 0, 10**12, 10**400, 3072.0, "3072", True, [3072], {}, float("nan"))


@pytest.mark.parametrize("name", SIZES + OPTIONAL_SIZES)
@pytest.mark.parametrize("value", NOT_A_SIZE, ids=lambda v: repr(v)[:12])
def test_absurd_size_is_named(name: str, value: object) -> None:
    expect_error(mini(**{name: value}), name)


@pytest.mark.parametrize("name", SIZES)
def test_missing_size_is_named(name: str) -> None:
    expect_error(mini(**{name: ...}), f"{name} is missing")


ABSURD: dict[str, dict[str, Any]] = {
    "model_type is 'phi3v'": mini(model_type="phi3v"),
    "model_type is 'llama'": mini(model_type="llama"),
    "model_type is missing": mini(model_type=...),
    "architectures is": mini(architectures=["LlamaForCausalLM"]),
    "architectures is []": mini(architectures=[]),
    "architectures is [{}]": mini(architectures=[{}]),
    "hidden_act is 'gegelu'": mini(hidden_act="gegelu"),
    "quantization_config.quant_method is": mini(quantization_config={"quant_method": "awq"}),
    "num_attention_heads is 31": mini(num_attention_heads=31, num_key_value_heads=31),
    "num_key_value_heads is 5": mini(num_key_value_heads=5),
    "num_key_value_heads is 64": mini(num_key_value_heads=64),
    "head_dim is 100": mini(head_dim=100),
    "head_dim is 24": mini(num_attention_heads=128, num_key_value_heads=128),
    "head_dim is 768": mini(num_attention_heads=4, num_key_value_heads=4),
    "rms_norm_eps is 0": mini(rms_norm_eps=0),
    "rms_norm_eps is nan": mini(rms_norm_eps=math.nan),
    "rms_norm_eps is '1e-5'": mini(rms_norm_eps="1e-5"),
    "rope_theta is inf": mini(rope_theta=math.inf),
    "rope_theta is 1000": mini(rope_theta=10**400),
    "rope_theta is -1": mini(rope_theta=-1),
    "rope_theta is True": mini(rope_theta=True),
    "partial_rotary_factor is 2": mini(partial_rotary_factor=2),
    "partial_rotary_factor is 0.01": mini(partial_rotary_factor=0.01, rope_scaling=None),
    "rope_scaling is 'su'": mini(rope_scaling="su"),
    "rope_scaling.factor is missing": rope(type="linear"),
    "rope_scaling.rope_type is 'llama3'": rope(rope_type="llama3"),
    "rope_scaling.type is 7": rope(type=7),
    "rope_scaling.short_factor is missing": rope(short_factor=...),
    "rope_scaling.long_factor has 47 numbers": rope(long_factor=[1.0] * 47),
    "rope_scaling.long_factor[3]": rope(long_factor=[1.0] * 3 + [0.0] + [1.0] * 44),
    "rope_scaling.short_factor[0]": rope(short_factor=[True] * 48),
    "rope_scaling.short_factor[1]": rope(short_factor=[1.0, math.nan] + [1.0] * 46),
    "rope_scaling.short_factor is": rope(short_factor="1.0"),
    "rope_scaling.attention_factor is 0": rope(attention_factor=0),
    "rope_scaling.factor is -4": rope(factor=-4),
    "tie_word_embeddings is 1": mini(tie_word_embeddings=1),
    "torch_dtype is 'int8'": mini(torch_dtype="int8"),
    "torch_dtype is ['bfloat16']": mini(torch_dtype=["bfloat16"]),
    "bos_token_id is -1": mini(bos_token_id=-1),
    "eos_token_id is 'x'": mini(eos_token_id=["x"]),
    "eos_token_id is [": mini(eos_token_id=list(range(100))),
    "pad_token_id is 1.5": mini(pad_token_id=1.5),
    "id2label is []": mini(id2label=[]),
    "id2label is {'1'": mini(id2label={"1": "a", "2": "b"}),
    "id2label.0 is 7": mini(id2label={"0": 7}),
    "id2label is {}": mini(id2label={}),
    "problem_type is 'x'": mini(problem_type="x"),
    "parameters": mini(
        hidden_size=131072, num_attention_heads=1024, num_key_value_heads=1024,
        intermediate_size=1 << 19, num_hidden_layers=1024, rope_scaling=None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", ABSURD)
def test_absurd_field_is_named(message: str) -> None:
    expect_error(ABSURD[message], message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", "hot"), ("temperature", True),
        ("temperature", math.nan), ("top_k", -1), ("top_k", 1.5), ("top_p", 0), ("top_p", 1.01),
        ("do_sample", "yes"),
        ("eos_token_id", [None, -3]),
    ],
)  # fmt: skip
def test_absurd_generation_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Phi3Config.from_dict(MINI, {field: value})
    assert str(caught.value).startswith(f"generation_config.json: {field} is ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "must hold a JSON object"),
        (b'{"a": ', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"model_type": "phi3", "model_type": "llama"}', "'model_type' is given twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"a": "' + b"x" * (5 << 20) + b'"}', "larger than 4194304 bytes"),
    ],
    ids=["empty", "list", "cut", "utf8", "twice", "deep", "deep2", "number", "large"],
)
def test_broken_file_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Phi3Config.from_dir(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(MINI))
    (tmp_path / "generation_config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        Phi3Config.from_dir(tmp_path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        Phi3Config.from_dir(tmp_path)


def expect_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Phi3Config.from_dict(config)
    text = str(caught.value)
    assert message in text
    assert "expected" in text
    assert "\n" not in text
    assert len(text) < 400
