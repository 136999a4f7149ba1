"""Ours: the loader and the engine's core, as `phi3svc serve` uses them."""

from __future__ import annotations

from pathlib import Path

from phi3svc import ops
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import FailedEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.model.loader import load_network
from phi3svc.model.packed_cache import PackedCache
from tests.bench.peers import workload

FLAGS = (
    "the defaults of serve (max_step_tokens 512), packed weights cached; "
    "prefix cache and guesses off"
)


class Phi3svc:
    def __init__(self, path: Path, format_name: str, num_threads: int) -> None:
        ops.set_num_threads(num_threads)
        config = EngineConfig(
            prefix_cache=False,
            max_draft_tokens=0,
            num_threads=num_threads,
            packed_cache=str(path.parent.resolve() / "packed"),
        )
        network = load_network(path, format_name, cache=PackedCache.of(config))
        num_blocks = -(-workload.MAX_CONTEXT // ops.PAGE_SIZE)
        self._core = EngineCore(network, config, num_blocks)

    def generate(self, prompts: list[list[int]], num_new: int, on_token: workload.OnToken) -> None:
        for i, prompt in enumerate(prompts):
            request = GenerateRequest(
                str(i),
                "peer",
                tuple(prompt),
                sampling=SamplingParams(temperature=0.0),
                max_new_tokens=num_new,
            )
            self._core.add(request)
        while self._core.has_work:
            for event in self._core.step():
                if isinstance(event, FailedEvent):
                    raise RuntimeError(str(event))
                if isinstance(event, TokenEvent):
                    for token in event.token_ids:
                        on_token(int(event.request_id), token)


def load(path: Path, format_name: str, num_threads: int) -> Phi3svc:
    return Phi3svc(path, format_name, num_threads)
