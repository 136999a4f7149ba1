"""`phi3svc info`: what it counts is what the files hold, and what it says fits does fit."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from phi3svc.cli import info
from phi3svc.cli.footprint import PROCESS_BYTES, footprints, weights_bytes
from phi3svc.cli.main import main
from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import Phi3Config
from phi3svc.engine.host import split_kv_memory
from phi3svc.model import device
from phi3svc.model.loader import load_network
from tests.model.checkpoints import END_TOKEN_ID, PAD_TOKEN_ID, make_checkpoint, rescale
from tests.model.family import FAMILY

GIB = 1 << 30
USER_TOKEN_ID = 259
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("Phi3ForCausalLM", {}),
    "tied": ("Phi3ForCausalLM", {"tie_word_embeddings": True}),
    "sharded": ("Phi3ForCausalLM", {"max_shard_size": "100KB", "dtype": "bfloat16"}),
    "no head": ("Phi3Model", {}),
    "sequence classifier": ("Phi3ForSequenceClassification", {"labels": ("a", "b", "c")}),
    "token classifier": ("Phi3ForTokenClassification", {"labels": ("a", "b", "c")}),
}


def facts_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["info", str(path), "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def stored_params(path: Path) -> int:
    """By the safetensors library."""
    total = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())  # noqa: SIM118
    return total


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parameters_are_those_in_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    architecture, overrides = CHECKPOINTS[name]
    path = make_checkpoint(tmp_path, architecture, **overrides)
    facts = facts_of(path, capsys)
    assert facts["parameters"] == stored_params(path) == Phi3Config.from_dir(path).num_params
    assert facts["architecture"] == architecture
    size = {"float32": 4, "bfloat16": 2}[facts["stored_dtype"]]
    assert facts["stored_bytes"] == size * facts["parameters"]
    assert facts["files"] == len(list(path.glob("*.safetensors")))
    assert (facts["files"] > 1) == (name == "sharded")
    for dtype, size in {"float32": 4, "bfloat16": 2}.items():
        assert facts[f"weights_in_{dtype}"] == size * facts["parameters"]
        # 2 layers, keys and values of 2 heads of 16
        assert facts[f"kv_bytes_per_token_in_{dtype}"] == 2 * 2 * 2 * 16 * size
    assert facts["kv_bytes_per_token_in_int8"] == 2 * 2 * 2 * (16 + 4)


@pytest.mark.parametrize(
    ("dtype", "mlp_width"),
    [("float32", 112), ("bfloat16", 112), ("int8", 112), ("int4", 112), ("int8", 100), ("int4", 8)],
)
@pytest.mark.parametrize("kind", ["untied", "tied", "no head"])
def test_weights_take_what_is_said(tmp_path: Path, dtype: str, mlp_width: int, kind: str) -> None:
    """Here no weight has to keep more bits."""
    path = make_checkpoint(
        tmp_path,
        "Phi3Model" if kind == "no head" else "Phi3ForCausalLM",
        tie_word_embeddings=kind == "tied",
        vocab_size=304,
        intermediate_size=mlp_width,
    )
    config = Phi3Config.from_dir(path)
    expected = weights_bytes(config, config.num_params)[dtype]
    weights = load_network(path, dtype).weights
    tensors = [weights.norm]
    if kind != "tied":
        tensors.append(weights.embedding)
    if kind != "no head":
        tensors.append(weights.lm_head.data)
    for layer in weights.layers:
        tensors += [layer.input_norm, layer.post_attention_norm]
        tensors += [w.data for w in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    assert sum(tensor.nbytes for tensor in tensors) == expected


def test_a_quantized_checkpoint_is_served_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(tmp_path / "source")
    assert main(["quantize", str(source), str(tmp_path / "out"), "--dtype", "int4"]) == 0
    capsys.readouterr()
    facts = facts_of(tmp_path / "out", capsys)
    assert facts["parameters"] == Phi3Config.from_dir(source).num_params
    assert facts["stored_dtype"] == "int4-g32-min"
    assert {way["dtype"] for way in facts["longest_context"]} == {"int4"}
    assert facts["weights_in_int4"] == facts["stored_bytes"]
    assert "weights_in_bfloat16" not in facts
    assert facts["fingerprint"] != facts_of(source, capsys)["fingerprint"]


def test_inverse_frequencies_are_no_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_checkpoint(tmp_path)
    expected = stored_params(path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    assert stored_params(path) == expected + 8
    assert facts_of(path, capsys)["parameters"] == expected


MINI = Phi3Config.from_dict(next(m for m in FAMILY if m.name == "Phi-3-mini-128k").config())


@pytest.mark.parametrize(
    ("free_bytes", "expected"),
    [
        (
            # Beside 14.235 GiB of weights and 0.586 GiB for the process: 9.179 GiB; beside 7.117,
            # 16.297 GiB; beside 3.655, 19.760; beside 2.073, 21.342. 16 tokens take 12 MiB in
            # float32, 6 in bfloat16, 3.125 in int8.
            24 * GIB,
            [
                ("float32", "float32", 783 * 16, "memory"),
                ("float32", "int8", 3007 * 16, "memory"),
                ("bfloat16", "bfloat16", 2781 * 16, "memory"),
                ("bfloat16", "int8", 5340 * 16, "memory"),
                ("int8", "bfloat16", 3372 * 16, "memory"),
                ("int8", "int8", 6474 * 16, "memory"),
                ("int4", "bfloat16", 3642 * 16, "memory"),
                ("int4", "int8", 6993 * 16, "memory"),
            ],
        ),
        (
            12 * GIB,
            [
                ("float32", "float32", 0, "memory"),
                ("float32", "int8", 0, "memory"),
                ("bfloat16", "bfloat16", 733 * 16, "memory"),
                ("bfloat16", "int8", 1407 * 16, "memory"),
                ("int8", "bfloat16", 1324 * 16, "memory"),
                ("int8", "int8", 2542 * 16, "memory"),
                ("int4", "bfloat16", 1594 * 16, "memory"),
                ("int4", "int8", 3061 * 16, "memory"),
            ],
        ),
        (
            100 * GIB,
            [
                ("float32", "float32", 7268 * 16, "memory"),
                ("float32", "int8", 131072, "model"),
                ("bfloat16", "bfloat16", 131072, "model"),
                ("bfloat16", "int8", 131072, "model"),
                ("int8", "bfloat16", 131072, "model"),
                ("int8", "int8", 131072, "model"),
                ("int4", "bfloat16", 131072, "model"),
                ("int4", "int8", 131072, "model"),
            ],
        ),
    ],
    ids=["24 GiB", "12 GiB", "100 GiB"],
)
def test_longest_context_of_phi3_mini(
    free_bytes: int, expected: list[tuple[str, str, int, str]]
) -> None:
    ways = list(footprints(MINI, weights_bytes(MINI, MINI.num_params), free_bytes))
    found = [(way.dtype, way.kv_dtype, way.context_tokens, way.limited_by) for way in ways]
    assert found == expected
    for way in ways:
        if way.context_tokens:
            assert way.weights_bytes + way.kv_memory_bytes + PROCESS_BYTES <= free_bytes


@pytest.mark.parametrize(("num_spare", "fits"), [(-1, False), (0, True)])
@pytest.mark.parametrize("wide", ["mlp", "vocabulary"])
def test_what_cannot_be_loaded_does_not_fit(wide: str, num_spare: int, fits: bool) -> None:
    """Loading takes the largest weight of a layer once more, or the embedding three times."""
    size = {"mlp": {"intermediate_size": 1 << 17}, "vocabulary": {"vocab_size": 1 << 20}}[wide]
    config = dataclasses.replace(MINI, num_hidden_layers=1, **size)
    sizes = weights_bytes(config, config.num_params)
    gate_up, embedding = 2 * 3072 * (2 << 17), 2 * 3072 << 20
    peak_bytes = sizes["bfloat16"] + gate_up if wide == "mlp" else 3 * embedding
    assert peak_bytes > sizes["bfloat16"] + PROCESS_BYTES
    ways = footprints(config, sizes, peak_bytes + num_spare)
    found = {way.dtype: bool(way.context_tokens) for way in ways}
    assert (found["float32"], found["bfloat16"]) == (False, fits)


@pytest.mark.parametrize(
    ("stored", "dtype", "num_alive"),
    [
        ("bfloat16", "float32", 8),  # converted, and packed
        ("bfloat16", "int8", 3),
        ("float32", "bfloat16", 6),  # as read, and as converted
        ("float32", "int8", 6),
        ("float32", "int4", 6),
    ],
)
def test_what_is_alive_while_a_weight_is_packed_has_to_fit(
    stored: Any, dtype: str, num_alive: int
) -> None:
    """num_alive: bytes per number of the largest weight."""
    config = dataclasses.replace(MINI, num_hidden_layers=1, intermediate_size=1 << 17, dtype=stored)
    num_packed = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5}[dtype]
    num_bytes = weights_bytes(config, config.num_params)[dtype]
    peak_bytes = num_bytes + int(2 * 3072 * (1 << 17) * (num_alive - num_packed))
    for num_spare in (-1, 0):
        ways = list(footprints(config, {dtype: num_bytes}, peak_bytes + num_spare))
        assert bool(ways[0].context_tokens) == (num_spare == 0)


def test_reordered_rows_of_phi3small_have_to_fit() -> None:
    small = next(m for m in FAMILY if m.name == "Phi-3-small-8k")
    config = dataclasses.replace(
        Phi3Config.from_dict(small.config()), num_hidden_layers=1, intermediate_size=1 << 17
    )
    num_bytes = weights_bytes(config, config.num_params)["int8"]
    peak_bytes = num_bytes + 2 * 4096 * (1 << 17) * (2 + 2 - 1)
    for num_spare in (-1, 0):
        ways = list(footprints(config, {"int8": num_bytes}, peak_bytes + num_spare))
        assert bool(ways[0].context_tokens) == (num_spare == 0)


@pytest.mark.parametrize("room", [0, 100_000, 2_000_000, 1 << 30])
def test_what_is_said_to_fit_is_what_the_engine_gets(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    """room: bytes beside the weights in float32."""
    path = make_checkpoint(tmp_path, max_position_embeddings=4000)
    weights_bytes = 4 * Phi3Config.from_dir(path).num_params
    monkeypatch.setattr(info, "available_bytes", lambda: weights_bytes + PROCESS_BYTES + room)
    facts = facts_of(path, capsys)
    assert facts["free_memory_bytes"] == weights_bytes + PROCESS_BYTES + room
    for way in facts["longest_context"]:
        assert way["context_tokens"] <= 4000
        assert (way["limited_by"] == "model") == (way["context_tokens"] == 4000)
        if way["context_tokens"] == 0:
            continue
        network = load_network(path, way["dtype"])
        config = EngineConfig(
            kv_memory_bytes=way["kv_memory_bytes"],
            kv_dtype="int8" if way["kv_dtype"] == "int8" else "auto",
        )
        num_tokens = 16 * split_kv_memory({"tiny": network}, config)["tiny"]
        assert num_tokens - 16 < way["context_tokens"] <= num_tokens
    float32 = facts["longest_context"][0]["context_tokens"]
    assert float32 == min(4000, room // (16 * 512) * 16)


def test_table_is_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path, original=32, sliding_window=40)
    weights_bytes = 4 * Phi3Config.from_dir(path).num_params
    monkeypatch.setattr(info, "available_bytes", lambda: weights_bytes + PROCESS_BYTES + 81920)
    assert main(["info", str(path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        f"parameters {stored_params(path):,}",
        "context tokens 512",
        "rope longrope, 16 of 16 dims, theta 10000, long factors beyond 32 tokens",
        "sliding window 40",
        "tied embeddings no",
        "--dtype weights --kv-dtype tokens limited by --kv-memory",
        "float32 0.4 MiB auto 160 memory 1",
        "bfloat16 0.2 MiB int8 512 model 1",
        "longest context on the CPU",
        "In int8 and int4, weights that lose too much keep more bits, and take more.",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linear", "linear, 16 of 16 dims, theta 10000, 512 tokens stretched by 4"),
        ("dynamic", "dynamic, 16 of 16 dims, theta 10000, 512 tokens stretched by 4"),
    ],
)
def test_stretched_length_is_the_models_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    path = rescale(make_checkpoint(tmp_path), {"rope_type": name, "factor": 4.0})
    facts = facts_of(path, capsys)
    assert facts["rope"] == said
    assert facts["context_tokens"] == 2048
    assert {way["context_tokens"] for way in facts["longest_context"]} == {2048}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nvidia0", ["cpu", "cuda:0: GPU, 80 GiB"]),
        ("dxg", ["cpu", "cuda:0: GPU, 80 GiB"]),
        ("nvidiactl", ["cpu"]),
    ],
)
def test_devices_are_those_that_torch_sees_if_there_may_be_any(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    said: list[str],
) -> None:
    path = make_checkpoint(tmp_path / "model")
    (tmp_path / file).touch()
    monkeypatch.setattr(info, "_DEVICE_FILES", tmp_path)
    monkeypatch.setattr(device, "describe_devices", lambda: ["cuda:0: GPU, 80 GiB"])
    assert facts_of(path, capsys)["devices"] == said


def test_stop_tokens_are_those_that_serve_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer's own end is one of them, if there is a tokenizer."""
    path = make_checkpoint(tmp_path)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|user|>"}))
    assert facts_of(path, capsys)["stop_token_ids"] == [PAD_TOKEN_ID, USER_TOKEN_ID, END_TOKEN_ID]
    (path / "tokenizer.json").unlink()
    assert facts_of(path, capsys)["stop_token_ids"] == [PAD_TOKEN_ID, END_TOKEN_ID]
