"""Imports and includes point down only: the layers of the README, held by reading the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "phi3svc"

# For each layer, the phi3svc layers it may import besides itself.
MAY_IMPORT = {
    "errors": set(),
    "log": {"errors"},
    "config": {"errors"},
    "ops": {"_core", "errors"},
    "text": {"errors", "config"},
    "model": {"ops", "config", "errors"},
    "engine": {"model", "ops", "text", "config", "errors", "log"},
    "api": {"engine", "model", "ops", "text", "config", "errors", "log"},
    "v1": set(),
    "service": {"engine", "text", "config", "errors", "log", "v1"},
    "bench": {"service", "engine", "config", "errors"},
    "cli": {"bench", "service", "engine", "model", "text", "config", "errors", "log"},
    "embedded": set(),
    "__init__": {"api", "config", "model"},
    "__main__": {"cli"},
}

# (folder or file, module that it must not import directly)
FORBIDDEN = {
    "config": {"torch", "grpc", "google"},
    "text": {"torch", "grpc", "google"},
    "model": {"grpc", "google", "msgspec"},
    "engine": {"grpc", "google"},
    "api": {"grpc", "google"},
    "service": {"torch"},
    "bench": {"torch", "grpc", "google"},
    "cli": {"torch", "grpc", "google"},
    "ops": {"grpc", "google"},
}
TORCH_FREE_ENGINE = {"request", "events", "sequence", "blocks", "scheduler"}


def python_files() -> list[Path]:
    return sorted(
        p
        for p in PACKAGE.rglob("*.py")
        if not {"v1", "training"} & set(p.relative_to(PACKAGE).parts)
    )


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names imported anywhere in the file, relative ones refused."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = layer_of(path)
    allowed = MAY_IMPORT[layer] | {layer}
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "phi3svc" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{path.name} ({layer}) imports {name}"
        assert parts[0] not in FORBIDDEN.get(layer, set()), f"{path.name} imports {name}"


def test_scheduler_and_blocks_know_neither_torch_nor_extension() -> None:
    for stem in TORCH_FREE_ENGINE:
        for name in imports_of(PACKAGE / "engine" / f"{stem}.py"):
            assert name.split(".")[0] not in {"torch", "grpc", "numpy"}, (stem, name)
            assert not name.startswith(("phi3svc.ops", "phi3svc.model", "phi3svc._core")), name


def test_front_process_imports_no_torch() -> None:
    code = (
        "import sys, phi3svc.cli.main, phi3svc.service.server, phi3svc.engine.process;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_ops_touches_the_extension() -> None:
    for path in python_files():
        if layer_of(path) != "ops":
            assert not any(n.startswith("phi3svc._core") for n in imports_of(path)), path


@pytest.mark.parametrize("folder", ["core", "ops", "cpu", "cuda"])
def test_kernels_include_no_python_or_torch(folder: str) -> None:
    include = re.compile(r'#include\s*[<"](pybind11|torch|ATen|c10|Python\.h)')
    for path in sorted((ROOT / "csrc" / folder).rglob("*.[ch]*")):
        assert not include.search(path.read_text()), path


def test_only_cuda_includes_cuda_and_cutlass() -> None:
    include = re.compile(r'#include\s*(<cuda|"cuda_|[<"](cutlass|cute)/)')
    for folder in ("core", "cpu", "bindings"):
        for path in sorted((ROOT / "csrc" / folder).rglob("*.[ch]*")):
            assert not include.search(path.read_text()), path


def test_only_sm90_includes_cutlass() -> None:
    include = re.compile(r'#include\s*[<"](cutlass|cute)/')
    for path in sorted((ROOT / "csrc").rglob("*.[chi]*")):
        if ROOT / "csrc/cuda/sm90" not in path.parents:
            assert not include.search(path.read_text()), path


def test_no_pickle_eval_or_remote_code() -> None:
    banned = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    for path in python_files():
        assert not {n.split(".")[0] for n in imports_of(path)} & banned, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "__import__"}, (path, node.lineno)
