"""The committed generated code is what the protos say, and the protos say what was designed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in (ROOT / "phi3svc" / "v1").glob("*_pb2.py"))


def load(module: str) -> FileDescriptor:
    descriptor: FileDescriptor = importlib.import_module(f"phi3svc.v1.{module}").DESCRIPTOR
    return descriptor


def test_generated_code_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "protos"))
    generate = importlib.import_module("generate").generate
    monkeypatch.delitem(sys.modules, "generate")

    fresh = {path.name: path.read_bytes() for path in generate(tmp_path)}

    package = ROOT / "phi3svc" / "v1"
    committed = {path.name: path.read_bytes() for path in package.glob("*_pb2*.py*")}
    stale = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    assert not stale, f"run `python protos/generate.py`: {stale}"


def test_every_proto_has_its_module() -> None:
    protos = sorted(path.stem for path in (ROOT / "protos/phi3svc/v1").glob("*.proto"))
    assert [f"{name}_pb2" for name in protos] == MODULES
    for module in MODULES:
        descriptor = load(module)
        assert descriptor_pool.Default().FindFileByName(descriptor.name) is descriptor
        assert descriptor.package == "phi3svc.v1"


def test_services_have_the_methods_of_the_contract() -> None:
    def shape(method: MethodDescriptor) -> str:
        return "stream" if method.server_streaming else "unary"

    services = {
        service.name: {method.name: shape(method) for method in service.methods}
        for module in MODULES
        for service in load(module).services_by_name.values()
    }
    assert services == {
        "GenerationService": {"Generate": "stream"},
        "ClassificationService": {"Classify": "unary", "ClassifyTokens": "unary"},
        "TokenizerService": {"Tokenize": "unary", "Detokenize": "unary", "RenderChat": "unary"},
        "ModelService": {"ListModels": "unary", "GetModel": "unary"},
    }


# Numbers promised to fields that come later: taking one for something else would force a break.
PLANNED = {
    "GenerateRequest": (9, 10, 13),
    "ClassifyRequest": (4,),
}


@pytest.mark.parametrize("message", sorted(PLANNED))
def test_planned_numbers_are_free(message: str) -> None:
    descriptor = descriptor_pool.Default().FindMessageTypeByName(f"phi3svc.v1.{message}")
    taken = {field.name: field.number for field in descriptor.fields}
    assert not {name for name, number in taken.items() if number in PLANNED[message]}


def test_sampling_fields_can_be_told_from_unset() -> None:
    descriptor = descriptor_pool.Default().FindMessageTypeByName("phi3svc.v1.SamplingParams")
    without = [field.name for field in descriptor.fields if not field.has_presence]
    assert without == ["logit_bias"]  # a map: empty says nothing, as unset does
