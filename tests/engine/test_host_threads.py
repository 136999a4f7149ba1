"""The engine's threads are those of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3svc import ops
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.host import EngineHost
from phi3svc.engine.protocol import ModelSource


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    num_threads, pin = ops.num_threads(), ops.pin_threads()
    yield
    ops.set_num_threads(num_threads)
    ops.set_pin_threads(pin)


def test_a_host_sets_threads_as_told_and_else_as_the_machine_has_them(tiny: Path) -> None:
    ops.set_num_threads(0)
    available = ops.num_threads()
    for num_threads, pin in ((available + 1, True), (0, False)):
        config = EngineConfig(num_threads=num_threads, pin_threads=pin, kv_memory_bytes=1 << 20)
        EngineHost([ModelSource("tiny", str(tiny), "float32")], config, lambda progress: None)
        assert ops.num_threads() == (num_threads or available)
        assert ops.pin_threads() is pin
