"""Checkpoints that lie: every one is refused in one line, and none is read past its bounds."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.config.tensors import INDEX_FILE, SINGLE_FILE, read_header
from phi3svc.errors import ConfigError
from phi3svc.model.loader import expected_shapes, load_network, required_names
from phi3svc.model.weights import WeightReader
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import all_logits, random_ids
from tests.model.headers import edit_header

QKV = "model.layers.1.self_attn.qkv_proj.weight"
NORM = "model.norm.weight"
INPUT_NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture
def single(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A good checkpoint in one file, to be spoilt."""
    return shutil.copytree(checkpoint(), tmp_path / "single")


@pytest.fixture
def sharded(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint(max_shard_size="100KB"), tmp_path / "sharded")


def open_weights(path: Path) -> WeightReader:
    config = Phi3Config.from_dir(path)
    return WeightReader(path, expected_shapes(config), required_names(config))


def error_of(path: Path) -> str:
    """Load the checkpoint, which must fail in one line."""
    with pytest.raises(ConfigError) as caught:
        open_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def edit_tensors(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of the single file and write it anew, in good form."""
    tensors = load_file(path / SINGLE_FILE)
    edit(tensors)
    save_file(tensors, path / SINGLE_FILE)


def edit_index(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((path / INDEX_FILE).read_text())
    edit(index)
    (path / INDEX_FILE).write_text(json.dumps(index))


def test_reader_gives_what_safetensors_gives(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint(dtype="bfloat16")
    expected = load_file(path / SINGLE_FILE)
    config = Phi3Config.from_dir(path)
    reader = WeightReader(path, expected_shapes(config), required_names(config))
    for name in expected_shapes(config):
        assert reader.read(name, torch.bfloat16).equal(expected[name])
        assert reader.read(name, torch.float32).equal(expected[name].float())


def test_progress_counts_every_byte(sharded: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_network(sharded, progress=lambda done, total: seen.append((done, total)))
    done, totals = [d for d, _ in seen], {t for _, t in seen}
    assert done == sorted(done)
    assert totals == {done[-1]}
    assert done[-1] == 4 * Phi3Config.from_dir(sharded).num_params


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 3000, -1, -4096])
def test_truncated_file(single: Path, keep: int) -> None:
    file = single / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:keep])
    assert "truncated" in error_of(single)


def test_file_that_shrinks_after_the_check(single: Path) -> None:
    reader = open_weights(single)
    file = single / SINGLE_FILE
    file.write_bytes(file.read_bytes()[: reader._tensors[QKV].offset + 10])
    with pytest.raises(ConfigError, match="ends within tensor"):
        reader.read(QKV, torch.float32)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        reader.read(QKV, torch.float32)


@pytest.mark.parametrize(
    "header_len", [1 << 63, (1 << 64) - 1, 1 << 40, 20 << 20, 1, 2000], ids=hex
)
def test_header_that_lies_about_its_length(single: Path, header_len: int) -> None:
    file = single / SINGLE_FILE
    data = file.read_bytes()
    with file.open("wb") as stream:  # sparse: 20 MiB of header without writing them
        stream.write(header_len.to_bytes(8, "little") + data[8:])
        stream.truncate(max(len(data), 30 << 20 if header_len == 20 << 20 else 0))
    assert any(word in error_of(single) for word in ("truncated", "at most", "not valid JSON"))


def test_trailing_bytes(single: Path) -> None:
    with (single / SINGLE_FILE).open("ab") as stream:
        stream.write(b"x")
    assert "its header describes" in error_of(single)


HEADER_ATTACKS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "overlap": (
        "overlaps its neighbour",
        lambda h: h[NORM].update(data_offsets=h[INPUT_NORM]["data_offsets"]),
    ),
    "gap": ("leaves a gap", lambda h: h.pop(QKV)),
    "beyond the end": (
        "leaves a gap",
        lambda h: h[NORM].update(data_offsets=[1 << 38, (1 << 38) + 256]),
    ),
    "negative offset": ("data_offsets is", lambda h: h[NORM].update(data_offsets=[-256, 0])),
    "reversed offsets": ("data_offsets is", lambda h: h[NORM].update(data_offsets=[512, 256])),
    "three offsets": ("data_offsets is", lambda h: h[NORM].update(data_offsets=[0, 1, 2])),
    "huge offsets": ("data_offsets is", lambda h: h[NORM].update(data_offsets=[0, 1 << 70])),
    "float offsets": ("data_offsets is", lambda h: h[NORM].update(data_offsets=[0.0, 256.0])),
    "bool shape": ("shape is", lambda h: h[NORM].update(shape=[True, 64])),
    "no offsets": ("data_offsets is missing", lambda h: h[NORM].pop("data_offsets")),
    "shape of another size": ("spans 256 bytes", lambda h: h[NORM].update(shape=[65])),
    "huge shape": ("spans 256 bytes", lambda h: h[NORM].update(shape=[1 << 40] * 8)),
    "negative shape": ("shape is", lambda h: h[NORM].update(shape=[-8, -8])),
    "too many dims": ("shape is", lambda h: h[NORM].update(shape=[1] * 9)),
    "shape is text": ("shape is", lambda h: h[NORM].update(shape="64")),
    "unknown dtype": ("dtype is 'F7'", lambda h: h[NORM].update(dtype="F7")),
    "dtype of another size": ("spans 256 bytes", lambda h: h[NORM].update(dtype="BF16")),
    "integer weights": ("is I32", lambda h: h[NORM].update(dtype="I32")),
    "entry is a list": ("has no description", lambda h: h.update({NORM: [1]})),
    "other shape": ("config.json makes it [64]", lambda h: h[NORM].update(shape=[8, 8])),
    "transposed": (
        "config.json makes it [128, 64]",
        lambda h: h[QKV].update(shape=h[QKV]["shape"][::-1]),
    ),
    "another name": (
        "'model.norm.weight' missing",
        lambda h: h.update({"model.gnome.weight": h.pop(NORM)}),
    ),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
def test_header_attack_is_named(single: Path, attack: str) -> None:
    message, edit = HEADER_ATTACKS[attack]
    edit_header(single / SINGLE_FILE, edit)
    assert message in error_of(single)


def test_duplicate_tensor_in_one_header(single: Path) -> None:
    edit_header(single / SINGLE_FILE, lambda h: h.update({"\1": h[NORM]}))
    file = single / SINGLE_FILE
    data = file.read_bytes().replace(b'"\\u0001"', b'"model.norm.weight"')
    header_len = int.from_bytes(data[:8], "little") + len(NORM) - 6
    file.write_bytes(header_len.to_bytes(8, "little") + data[8:])
    assert "'model.norm.weight' is given twice" in error_of(single)


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff\xfe", b"[" * 100_000], ids=len)
def test_header_that_is_no_object(single: Path, text: bytes) -> None:
    (single / SINGLE_FILE).write_bytes(len(text).to_bytes(8, "little") + text)
    assert SINGLE_FILE in error_of(single)


@pytest.mark.parametrize(
    "config",
    [{"num_hidden_layers": 3}, {"intermediate_size": 113}, {"vocab_size": 299}, {"head_dim": 32}],
    ids=str,
)
def test_config_that_disagrees_with_the_weights(single: Path, config: dict[str, int]) -> None:
    values = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(values | config))
    assert "missing" in error_of(single) or "config.json makes it" in error_of(single)


@pytest.mark.parametrize(
    "file_name",
    [
        "../single/model.safetensors", "/etc/passwd", "a/../../x.safetensors", "..", "", ".", 7,
        None, "..\\x.safetensors", "sub/model.safetensors", "weights.bin", "x\n.safetensors",
    ],
    ids=repr,
)  # fmt: skip
def test_index_naming_a_file_outside(sharded: Path, file_name: object) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update({NORM: file_name}))
    assert "plain name of a .safetensors file" in error_of(sharded)


def test_absent_shard(sharded: Path) -> None:
    next(sharded.glob("model-00002-*")).unlink()
    assert "model-00002-of-00005.safetensors: no such file" in error_of(sharded)


def test_index_naming_the_wrong_shard(sharded: Path) -> None:
    def swap(index: dict[str, Any]) -> None:
        names = sorted(set(index["weight_map"].values()))
        other = next(n for n in names if n != index["weight_map"][NORM])
        index["weight_map"][NORM] = other

    edit_index(sharded, swap)
    assert "'model.norm.weight' is not in" in error_of(sharded)


def test_tensor_in_two_shards(sharded: Path) -> None:
    one, two = sorted(sharded.glob("model-*.safetensors"))[:2]
    name = next(iter(read_header(one)))
    save_file(load_file(two) | {name: load_file(one)[name]}, two)
    assert "is in both" in error_of(sharded)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"], ids=repr)
def test_index_without_a_weight_map(sharded: Path, weight_map: object) -> None:
    edit_index(sharded, lambda index: index.update(weight_map=weight_map))
    assert "weight_map" in error_of(sharded)


def test_missing_tensors_are_counted(single: Path) -> None:
    edit_tensors(single, lambda t: (t.pop(QKV), t.pop(NORM)))
    assert "and 1 more missing" in error_of(single)


def test_untied_model_without_lm_head(single: Path) -> None:
    edit_tensors(single, lambda t: t.pop("lm_head.weight"))
    assert "'lm_head.weight' missing" in error_of(single)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickled_weights_are_refused(single: Path, name: str) -> None:
    (single / SINGLE_FILE).rename(single / name)
    assert f"has only pickled weights ({name}), which are never loaded; convert" in error_of(single)
    (single / name).unlink()
    assert "has neither model.safetensors nor" in error_of(single)


def test_the_conversion_it_names_works(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = shutil.copytree(checkpoint(), tmp_path / "a 'folder'")
    expected = load_file(path / SINGLE_FILE)
    torch.save(expected, path / "pytorch_model.bin")
    (path / SINGLE_FILE).unlink()
    command = shlex.split(error_of(path).partition("convert them with: ")[2])
    assert command[:2] == ["python", "-c"]
    exec(command[2], {})
    converted = load_file(path / SINGLE_FILE)
    assert converted.keys() == expected.keys()
    assert all(converted[name].equal(expected[name]) for name in expected)
    load_network(path)


def test_extra_tensors_are_left_alone(single: Path) -> None:
    ids = random_ids(8)
    expected = all_logits(load_network(single), ids)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.7.mlp.down_proj.weight": torch.ones(3, dtype=torch.int8),
    }
    edit_tensors(single, lambda t: t.update(extra))
    assert all_logits(load_network(single), ids).equal(expected)


def test_one_weight_under_two_names(single: Path) -> None:
    def duplicate(tensors: dict[str, torch.Tensor]) -> None:
        tensors["norm.weight"] = tensors["model.norm.weight"] + 1

    edit_tensors(single, duplicate)
    assert "tensors 'model.norm.weight' and 'norm.weight' are the same weight" in error_of(single)


def test_dtype_falls_back_to_the_weights(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = shutil.copytree(checkpoint(dtype="bfloat16"), tmp_path / "copy")
    values = json.loads((path / "config.json").read_text())
    del values["dtype"]
    (path / "config.json").write_text(json.dumps(values))
    assert Phi3Config.from_dir(path).dtype == "bfloat16"


def test_older_names_of_the_token_head(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = checkpoint("Phi3ForTokenClassification", labels=("O", "X"))
    path = shutil.copytree(source, tmp_path / "copy")
    expected = load_network(path).weights

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in ("weight", "bias"):
            tensors[f"classifier.{name}"] = tensors.pop(f"score.{name}")

    edit_tensors(path, rename)
    network = load_network(path)
    assert network.heads == {"token-classification"}
    assert network.weights.score is not None
    assert expected.score is not None
    assert network.weights.score.data.equal(expected.score.data)
    edit_tensors(path, lambda t: t.pop("classifier.bias"))
    assert "'score.bias' missing" in error_of(path)


def test_both_heads_in_one_checkpoint(single: Path) -> None:
    values = json.loads((single / "config.json").read_text())
    values["id2label"] = {"0": "no", "1": "yes"}
    (single / "config.json").write_text(json.dumps(values))
    edit_tensors(single, lambda t: t.update({"score.weight": torch.ones(2, 64)}))
    network = load_network(single)
    assert network.heads == {"generation", "sequence-classification"}


def test_tied_config_with_a_different_lm_head_is_not_tied(single: Path) -> None:
    """As in transformers, which believes the weights."""
    ids = random_ids(8)
    expected = all_logits(load_network(single), ids)
    values = json.loads((single / "config.json").read_text())
    values["tie_word_embeddings"] = True
    (single / "config.json").write_text(json.dumps(values))
    assert all_logits(load_network(single), ids).equal(expected)
