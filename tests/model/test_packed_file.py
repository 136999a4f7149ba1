"""Files of packed weights that lie: each is refused in one line, before its data is touched."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from phi3svc.config.model import Phi3Config
from phi3svc.config.quantization import Quantization
from phi3svc.config.tensors import read_header
from phi3svc.errors import ConfigError
from phi3svc.model import packed_source
from phi3svc.model.loader import expected_shapes, load_network, pack_checkpoint
from phi3svc.model.packed_source import PackedSource
from phi3svc.model.pages import FileMapping
from phi3svc.model.quantized_checkpoint import write_quantized
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import all_logits, random_ids
from tests.model.headers import edit_header
from tests.model.small_checkpoints import make_small_checkpoint

QKV = "model.layers.1.self_attn.qkv_proj.weight"
GATE_UP = "model.layers.0.mlp.gate_up_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def folder(checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A good quantized checkpoint, to be spoilt."""
    out = tmp_path / "quantized"
    write_quantized(checkpoint(), out, Quantization(4), lambda *_: None, lambda _: None)
    return out


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / "model.safetensors"


def edit_linears(header: dict[str, Any], edit: Callable[[dict[str, Any]], object]) -> None:
    linears = json.loads(header["__metadata__"]["phi3svc.linears"])
    edit(linears)
    header["__metadata__"]["phi3svc.linears"] = json.dumps(linears)


def of_metadata(**fields: object) -> Callable[[dict[str, Any]], object]:
    named = {f"phi3svc.{name}": value for name, value in fields.items()}
    return lambda header: header["__metadata__"].update(named)


def of_linear(name: str, **fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda header: edit_linears(header, lambda linears: linears[name].update(fields))


ATTACKS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no metadata": ("has no phi3svc.version", lambda h: h.pop("__metadata__")),
    "metadata is a list": ("has no phi3svc.version", lambda h: h.update(__metadata__=[])),
    "another version": ("is of version 2; this version of", of_metadata(version="2")),
    "a version in digits": ("is of version 1; this version of", of_metadata(version=1)),
    "another layout": ("is of layout 999; this version of", of_metadata(layout="999")),
    "a long layout": ("is of layout xxx", of_metadata(layout="x" * 100_000)),
    "another format": ("is of format int8; config.json says int4-g32", of_metadata(format="int8")),
    "linears is a number": ("has no phi3svc.linears", of_metadata(linears=7)),
    "linears is no JSON": ("phi3svc.linears: not valid JSON", of_metadata(linears="{")),
    "linears is a list": ("phi3svc.linears: must hold a JSON object", of_metadata(linears="[]")),
    "linears is deep": ("nested too deeply", of_metadata(linears="[" * 100_000)),
    "a linear is a list": (
        "has no description",
        lambda h: edit_linears(h, lambda linears: linears.update({QKV: []})),
    ),
    "no linears": ("expected BF16 [300, 64]", of_metadata(linears="{}")),
    "an unknown format": ("format is 'int3'", of_linear(QKV, format="int3")),
    "a format that is CUDA's": ("format is 'fp8'", of_linear(QKV, format="fp8")),
    "no format": ("format is missing", of_linear(QKV, format=None)),
    "a format of more bytes": ("is U8 [8, ", of_linear(QKV, format="int8")),
    "a float format": ("expected BF16", of_linear(QKV, format="bfloat16")),
    "a float format that the model has not": (
        "is in float32; the model is in int4-g32-min",
        of_linear(QKV, format="float32"),
    ),
    "more rows": ("stands for [144, 64]; config.json makes it", of_linear(QKV, out_features=144)),
    "more columns": ("stands for [128, 128]; config", of_linear(QKV, in_features=128)),
    "a huge size": ("in_features is 1073741824", of_linear(QKV, in_features=1 << 30)),
    "a negative size": ("in_features is -64", of_linear(QKV, in_features=-64)),
    "a size in words": ("in_features is '64'", of_linear(QKV, in_features="64")),
    "gate without up": ("is not packed as gate and up", of_linear(GATE_UP, is_gate_up=False)),
    "up without gate": ("is not packed as a linear weight", of_linear(QKV, is_gate_up=True)),
    "is_gate_up is a number": ("is_gate_up is 1", of_linear(GATE_UP, is_gate_up=1)),
    "a norm that is packed": (
        "stands for [64, 1]; config.json makes it [64]",
        lambda h: edit_linears(h, lambda linears: linears.update({NORM: LINEAR_OF_A_NORM})),
    ),
    "a norm of another dtype": (
        f"{NORM!r} is F16 [64]; expected BF16 [64]",
        lambda h: h[NORM].update(dtype="F16"),
    ),
    "a norm of another shape": ("expected BF16 [64]", lambda h: h[NORM].update(shape=[8, 8])),
    "packed data of another shape": (
        "expected U8 [8, ",
        lambda h: h[QKV].update(shape=h[QKV]["shape"][::-1]),
    ),
    "a tensor less": ("'model.norm.weight' missing", lambda h: h.update({"x": h.pop(NORM)})),
    "swapped data": (
        "expected U8",
        lambda h: h.update({QKV: h[GATE_UP], GATE_UP: h[QKV]}),
    ),
}
LINEAR_OF_A_NORM = {"format": "bfloat16", "out_features": 64, "in_features": 1}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_named(
    folder: Path, file: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, edit = ATTACKS[attack]
    edit_header(file, edit)
    if attack not in ("gate without up", "up without gate"):  # known when they are asked for
        monkeypatch.setattr(FileMapping, "tensor", lambda *_: pytest.fail("data was touched"))
    with pytest.raises(ConfigError) as caught:
        load_network(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_data_that_is_not_aligned(folder: Path, file: Path) -> None:
    data = file.read_bytes()
    header_len = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + header_len] + b" "
    file.write_bytes((header_len + 1).to_bytes(8, "little") + header + data[8 + header_len :])
    with pytest.raises(ConfigError, match=r"begins at byte \d+, no multiple of 64"):
        load_network(folder)


def test_rows_that_no_integer_format_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the kernels find out is too late."""
    monkeypatch.setattr(packed_source, "MAX_IN_FEATURES", 111)
    with pytest.raises(ConfigError, match="is in int4-g32-min, with 112 columns; expected at most"):
        load_network(folder)


def test_integers_in_a_file_of_floats(tmp_path: Path, checkpoint: MakeCheckpoint) -> None:
    """As an entry of the cache might be."""
    file = tmp_path / "file"
    config = Phi3Config.from_dir(checkpoint())
    shapes = expected_shapes(config)
    with file.open("w+b", buffering=0) as stream:
        pack_checkpoint(checkpoint(), "int8", stream.fileno())
    edit_header(file, of_metadata(format="bfloat16"))
    with file.open("rb") as stream, pytest.raises(ConfigError, match="is in int8; the model is in"):
        PackedSource(stream, file, "bfloat16", shapes, [])


@pytest.mark.parametrize("keep", [0, 7, 100, -1, -4096])
def test_a_file_cut_short(folder: Path, file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="truncated"):
        load_network(folder)


def test_no_packed_file(folder: Path, file: Path) -> None:
    file.unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors: no such file"):
        load_network(folder)
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a regular file"):
        load_network(folder)


def test_floats_in_a_folder_that_says_it_is_quantized(
    folder: Path, file: Path, checkpoint: MakeCheckpoint
) -> None:
    file.write_bytes((checkpoint() / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="not a file of packed weights"):
        load_network(folder)


def test_headers_of_noise_end_in_one_line_or_load(folder: Path, file: Path) -> None:
    """A thousand headers with a few bytes changed."""
    good = file.read_bytes()
    header_len = len(good[: int.from_bytes(good[:8], "little")].rstrip()) + 8
    source = random.Random(0)
    refusals = []
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(source.randint(1, 3)):
            data[source.randrange(header_len)] = source.choice(b'0123456789[]{},:"a \\\x00\xff')
        file.write_bytes(data)
        try:
            load_network(folder)
        except ConfigError as error:
            refusals.append(str(error))
    assert not any("\n" in text for text in refusals)
    assert 500 < len(refusals) < 1000


@pytest.mark.parametrize("format", ["float32", "int8", "int4-g128-min"])
def test_it_is_a_safetensors_file_of_aligned_tensors(
    tmp_path: Path, checkpoint: MakeCheckpoint, format: str
) -> None:
    """A token classifier's bias, of 3 numbers, is not a multiple of 64 bytes long."""
    labels = ("O", "B-X", "I-X")
    for source in (
        checkpoint("Phi3ForTokenClassification", labels=labels),
        make_small_checkpoint(tmp_path / "small", intermediate=112, num_labels=3),
    ):
        file = tmp_path / "file"
        with file.open("w+b", buffering=0) as stream:
            pack_checkpoint(source, format, stream.fileno())
        tensors = read_header(file)
        offsets = [tensor.offset for name, tensor in tensors.items() if "padding" not in name]
        assert all(offset % 64 == 0 for offset in offsets)
        with safe_open(file, "pt") as found:
            assert set(found.keys()) == set(tensors)
            assert json.loads(found.metadata()["phi3svc.linears"])
            norms = [name for name in found.keys() if name.endswith("layernorm.weight")]  # noqa: SIM118
            assert all(found.get_tensor(name).mean() > 0.5 for name in norms)


def test_packing_holds_no_descriptor_per_tensor(tmp_path: Path, checkpoint: MakeCheckpoint) -> None:
    """A process may have 1024, which 165 layers would use up."""
    counts: list[int] = []
    with (tmp_path / "file").open("w+b", buffering=0) as stream:
        pack_checkpoint(
            checkpoint(),
            "int8",
            stream.fileno(),
            on_packed=lambda _: counts.append(len(os.listdir("/proc/self/fd"))),
        )
    assert len(counts) == 9
    assert max(counts) == counts[0]


def test_a_quantized_checkpoint_is_what_is_quantized_while_it_loads(
    folder: Path, checkpoint: MakeCheckpoint
) -> None:
    ids = random_ids(20)
    expected = all_logits(load_network(checkpoint(), "int4"), ids)
    for dtype in ("auto", "int4", "int4-g32-min"):
        assert all_logits(load_network(folder, dtype), ids).equal(expected)
