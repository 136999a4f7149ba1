"""What is tested: which build of the extension, on which device.

PHI3SVC_TEST_EXTENSION: path of another `_core`. `make test-cuda-emulated` names one whose ops are
the CUDA kernels, which tests/cuda_emulator runs on the CPU. PHI3SVC_TEST_DEVICE: where the suites
in tests/cuda_suites.py have tensors and networks, the CPU if not said.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest


def _load_extension(path: str) -> None:
    spec = importlib.util.spec_from_file_location("phi3svc._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if path := os.environ.get("PHI3SVC_TEST_EXTENSION"):
    _load_extension(path)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "cpu_only: of what the CPU backend alone has: ISAs, threads, integer formats, its layouts, "
        "and a look at what index tensors hold",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tests.devices import BACKEND

    if BACKEND == "cpu":
        return
    for item in items:
        if item.get_closest_marker("cpu_only"):
            item.add_marker(pytest.mark.skip(reason="only the CPU backend has it"))
