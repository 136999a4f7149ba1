"""Any change of a good checkpoint's files is loaded or refused in one line; nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3svc.config.checkpoint import fingerprint
from phi3svc.config.model import Phi3Config
from phi3svc.config.tensors import list_tensors, read_header
from phi3svc.errors import ConfigError
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.tokenizer import Tokenizer
from tests.model.hostile_attacks import CONFIG, FACTORS, f32, header, write_good

SMALL_CONFIG = CONFIG | {
    "rope_scaling": FACTORS,
    "original_max_position_embeddings": 64,
    "sliding_window": 128,
    "id2label": {"0": "a", "1": "b"},
    "eos_token_id": [1, 2],
}
PHI3_SMALL_CONFIG = {
    "model_type": "phi3small",
    "hidden_size": 64,
    "ff_intermediate_size": 112,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
    "rope_scaling": FACTORS | {"rope_type": "su", "original_max_position_embeddings": 64},
    "dummy_token_indices": [1, 2],
    "blocksparse_block_size": 64,
    "gegelu_limit": 20.0,
    "mup_width_multiplier": 8.0,
}
TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"content": "<|end|>", "rstrip": True},
    "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}",
    "added_tokens_decoder": {"256": {"content": "<s>", "special": True, "rstrip": True}},
    "additional_special_tokens": ["<|user|>"],
}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-3, 600),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["longrope", "su", "yarn", "linear", "float32", "float16", 10**400, -0.0]),
)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=9) | st.dictionaries(st.text(max_size=6), v, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_good(tmp_path_factory.mktemp("fuzz") / "good")


@pytest.fixture(scope="module")
def scratch(good: Path) -> Path:
    """A copy of it, spoilt anew for each example."""
    return Path(shutil.copytree(good, good.parent / "scratch"))


def places(value: object) -> list[tuple[Any, Any]]:
    """Every (container, key) in a piece of JSON."""
    pairs = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    return [place for key, child in pairs for place in ((value, key), *places(child))]


def spoil(data: st.DataObject, values: dict[str, Any]) -> dict[str, Any]:
    """Change one to three values, anywhere in a copy of `values`; or take them out."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(copy)))
        if isinstance(container, dict) and data.draw(st.integers(0, 4)) == 0:
            del container[key]
            if not places(copy):
                break
        else:
            container[key] = data.draw(VALUES)
    return copy


def check(read: Any, *args: object) -> None:
    text = ""
    try:
        read(*args)
    except ConfigError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 1500


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("config", [SMALL_CONFIG, PHI3_SMALL_CONFIG], ids=["phi3", "phi3small"])
@FUZZ
@given(data=st.data())
def test_any_config(config: dict[str, Any], data: st.DataObject) -> None:
    check(Phi3Config.from_dict, spoil(data, config), spoil(data, {"eos_token_id": [1], "top_p": 1}))


@FUZZ
@given(data=st.data())
def test_any_header(scratch: Path, data: st.DataObject) -> None:
    tensors = {
        "a": f32([2, 3], 0, 24),
        "b": f32([4], 24, 32, "BF16"),
        "__metadata__": {"format": "pt"},
    }
    header(spoil(data, tensors), b"x" * 32)(scratch)
    check(list_tensors, scratch)
    check(fingerprint, scratch)


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4))
def test_any_bytes_of_a_tensor_file(
    good: Path, scratch: Path, edits: list[tuple[int, int]]
) -> None:
    data = bytearray((good / "model.safetensors").read_bytes())
    for place, byte in edits:
        data[place % len(data)] = byte
    (scratch / "model.safetensors").write_bytes(data)
    check(read_header, scratch / "model.safetensors")


@FUZZ
@given(data=st.data())
def test_any_tokenizer_config(good: Path, scratch: Path, data: st.DataObject) -> None:
    shutil.copy(good / "tokenizer.json", scratch)
    config = json.dumps(spoil(data, TOKENIZER_CONFIG))
    (scratch / "tokenizer_config.json").write_text(config)
    check(Tokenizer.from_dir, scratch)
    check(ChatTemplate.from_dir, scratch)


@FUZZ
@given(data=st.data())
def test_any_tokenizer(good: Path, scratch: Path, data: st.DataObject) -> None:
    shutil.copy(good / "tokenizer_config.json", scratch)
    definition = json.loads((good / "tokenizer.json").read_text())
    definition["model"]["vocab"] = {"a": 0, "b": 1, "ab": 2}
    definition["model"]["merges"] = [["a", "b"]]
    (scratch / "tokenizer.json").write_text(json.dumps(spoil(data, definition)))
    check(Tokenizer.from_dir, scratch)
