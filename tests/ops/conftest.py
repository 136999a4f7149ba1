"""Fixtures of the op tests: every ISA of this machine, both dtypes, a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from phi3svc import ops


@pytest.fixture(params=ops.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ops.isa()
    ops.set_isa(request.param)
    yield request.param
    ops.set_isa(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


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
