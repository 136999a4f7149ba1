"""More sequences at once than a batch on CUDA has exact shapes for: each gets what it gets alone.

There rows that stand for no sequence make up the number, and from the second step of a shape on a
step is one graph.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine import core as core_module
from phi3svc.engine.core import EngineCore
from phi3svc.engine.request import Request, SamplingParams
from tests.devices import BACKEND
from tests.engine.core_runs import run
from tests.engine.requests import generate
from tests.networks import load_network

FORMATS = {
    "cpu": [("float32", "auto"), ("bfloat16", "int8"), ("int8", "int8")],
    "cuda": [("float32", "auto"), ("bfloat16", "fp8"), ("fp8", "fp8")],
}[BACKEND]

NUM_SEQUENCES = 18


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMATS)
def test_each_gets_what_it_gets_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kv_dtype: str, all_at_once: bool
) -> None:
    for name in ("_MAX_QUEUED_S", "_MAX_QUEUED_ON_DEVICE_S"):
        monkeypatch.setattr(core_module, name, float("inf"))
    network = load_network(tiny, dtype)
    config = EngineConfig(max_step_tokens=64, max_draft_tokens=0, kv_dtype=kv_dtype)

    def core() -> EngineCore:
        return EngineCore(network, config, num_blocks=256)

    requests: list[Request] = [
        generate(
            f"r{i}",
            [i + 1, 2, 3, *range(i % 5)],
            6 + i % 4,
            sampling=SamplingParams(
                temperature=1.0, seed=i, repetition_penalty=1.2 if i == 4 else 1.0
            ),
        )
        for i in range(NUM_SEQUENCES)
    ]
    together = run(core(), requests, all_at_once=all_at_once)
    for i in (0, 4, 11, NUM_SEQUENCES - 1):
        alone = run(core(), [requests[i]])
        assert together[f"r{i}"] == alone[f"r{i}"], i
        assert alone[f"r{i}"].finish == "length"
