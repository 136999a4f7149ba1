"""Fixtures of the op tests: the ISAs of the backend, both dtypes, a fixed seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from devices import BACKEND, DEVICE
from phi3svc import ops

# A name with an underscore replaces GEMMs of the ISA it extends and nothing else, and avx512_bf16
# has the integer GEMMs of avx512_vnni. `test_isas_agree` runs every name with every op. To CUDA the
# ISA is nothing.
_AVAILABLE = ["portable"] if BACKEND == "cuda" else ops.available_isas()
ISAS = [name for name in _AVAILABLE if "_" not in name]
GEMM_ISAS = [n for n in _AVAILABLE if n != "avx512_vnni" or "avx512_bf16" not in _AVAILABLE]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what would call the very same kernels: avx512_bf16 has the float32 of avx512."""
    items[:] = [item for item in items if not _is_repeated(item)]


def _is_repeated(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return False
    chosen = callspec.params
    return chosen.get("gemm_isa") == "avx512_bf16" and chosen.get("dtype") == torch.float32


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of ops without a GEMM."""
    with using_isa(request.param):
        yield request.param


@pytest.fixture(params=GEMM_ISAS)
def gemm_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of ops that are GEMMs, attention among them."""
    with using_isa(request.param):
        yield request.param


@contextlib.contextmanager
def using_isa(name: str) -> Iterator[None]:
    before = ops.isa()
    ops.set_isa(name)
    try:
        yield
    finally:
        ops.set_isa(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _tensors_on_the_device() -> Iterator[None]:
    if DEVICE.type == "cpu":
        yield
        return
    with DEVICE:
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = ops.num_threads()
    ops.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    ops.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
