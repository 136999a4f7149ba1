"""Networks with weights in int8 and int4: what they compute, and on what machine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.model import packing
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from phi3svc.ops import PackedLinear
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import prefill, random_ids
from tests.model.oracle import relative_error
from tests.model.small_checkpoints import make_small_checkpoint

IDS = random_ids(48)
FORMATS = ("int8", "int4-g32", "int4-g32-min", "int4-g128", "int4-g128-min")
MAX_ERROR = 0.2
"""By activations in int8; a row that meets the wrong weight or scale is off by 1."""

MEMBERS: dict[str, dict[str, Any]] = {
    "untied": {"original": 32},
    "tied": {"tie_word_embeddings": True, "sliding_window": 21},
    "odd sizes": {"hidden_size": 80, "intermediate_size": 100, "head_dim": 32},
    "classifier": {
        "architecture": "Phi3ForTokenClassification",
        "labels": ("O", "B-X", "I-X"),
    },
}


@pytest.fixture(params=[*MEMBERS, "small"])
def path(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    if request.param == "small":
        return make_small_checkpoint(tmp_path, original=32)
    return checkpoint(**MEMBERS[request.param])


@pytest.fixture
def restored_isa() -> Iterator[None]:
    isa = ops.isa()
    yield
    ops.set_isa(isa)


def outputs(network: Network) -> Tensor:
    """Of every position: logits, or else scores."""
    rows = torch.arange(len(IDS), dtype=torch.int32)
    h = prefill(network, IDS)
    return (network.logits if "generation" in network.heads else network.scores)(h, rows).clone()


def in_float32(network: Network, path: Path) -> Network:
    """A float32 network of the weights that those of `network` stand for."""

    def unpacked(weight: object, name: str) -> object:
        if isinstance(weight, Tensor):
            return weight.float()
        if not isinstance(weight, PackedLinear):
            return weight
        if name == "gate_up":
            return ops.pack_gate_up(ops.unpack_gate_up(weight))
        return ops.pack_linear(ops.unpack_linear(weight))

    def replaced(weights: Any) -> Any:
        fields = {f.name: getattr(weights, f.name) for f in dataclasses.fields(weights)}
        layers = (
            {"layers": tuple(map(replaced, fields.pop("layers")))} if "layers" in fields else {}
        )
        made = {name: unpacked(weight, name) for name, weight in fields.items()}
        return type(weights)(**made, **layers)

    exact = load_network(path, "float32")
    exact.weights = replaced(network.weights)
    return exact


@pytest.mark.parametrize("format", FORMATS)
def test_it_computes_what_its_weights_stand_for(path: Path, format: str) -> None:
    """But for activations, which are rounded to bfloat16 here and to int8 there."""
    network = load_network(path, format)
    assert network.format == format
    assert network.dtype == torch.bfloat16
    assert {layer.gate_up.format for layer in network.weights.layers} == {format}
    expected = outputs(in_float32(network, path))
    assert relative_error(outputs(network), expected) < MAX_ERROR
    assert relative_error(outputs(load_network(path, "bfloat16")), expected) > 0.02


def test_more_bits_are_nearer_to_the_checkpoint(path: Path) -> None:
    expected = outputs(load_network(path, "float32"))
    errors = [relative_error(outputs(load_network(path, n)), expected) for n in ("int8", "int4")]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("format", ["int8", "int4", "int4-g128"])
def test_every_isa_computes_the_same_bits(path: Path, format: str, restored_isa: None) -> None:
    found = []
    for isa in ops.available_isas():
        ops.set_isa(isa)
        found.append(outputs(load_network(path, format)))
    assert all(logits.equal(found[0]) for logits in found)


@pytest.mark.parametrize("kept", ["int8", "bfloat16"])
@pytest.mark.parametrize(
    "module", ["qkv|query_key_value", "o_proj|dense", "up_proj", "down_proj", "lm_head|embed"]
)
def test_a_weight_may_keep_more_bits_than_the_others(
    path: Path, module: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_format(name: str, _: int, format: str) -> str:
        return kept if format == "int4-g32-min" and re.search(module, name) else format

    monkeypatch.setattr(packing, "first_format", first_format)
    network = load_network(path, "int4")
    assert relative_error(outputs(network), outputs(in_float32(network, path))) < MAX_ERROR
    ids = IDS[:20]
    assert prefill(network, ids, chunk_len=3).equal(prefill(network, ids))
