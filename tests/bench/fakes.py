"""Targets without a model, and records made by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

from phi3svc.bench.machine import Machine
from phi3svc.bench.record import Message, RequestRecord
from phi3svc.bench.results import Results
from phi3svc.bench.run import Run
from phi3svc.bench.target import TargetModel
from phi3svc.bench.workload import Workload
from phi3svc.errors import Overloaded

MODEL = TargetModel("tiny", "float32", 1000, 64, 12, "ab" * 32)


class SlowTarget:
    """Serves one request at a time, `service_s` each; refuses those with a `refused` first id."""

    def __init__(self, service_s: float, *, blocks_client: bool = False, refused: int = -1) -> None:
        self.model = MODEL
        self._service_s = service_s
        self._blocks_client = blocks_client
        self._refused = refused
        self._turn = asyncio.Lock()
        self.num_running = 0
        self.max_running = 0
        self.prompts: list[list[int]] = []

    async def stream(self, prompt_ids: list[int]) -> AsyncGenerator[int, None]:
        self.prompts.append(prompt_ids)
        if prompt_ids[0] == self._refused:
            raise Overloaded("full")
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            async with self._turn:
                if self._blocks_client:
                    time.sleep(self._service_s)  # noqa: ASYNC251 a client that cannot keep up
                else:
                    await asyncio.sleep(self._service_s)
            yield 1
            yield 2
        finally:
            self.num_running -= 1


def record(
    intended_s: float, messages: Sequence[tuple[float, int]], end_s: float, sent_s: float = 0.0
) -> RequestRecord:
    made = [Message(time_s, num_tokens) for time_s, num_tokens in messages]
    return RequestRecord(intended_s, max(sent_s, intended_s), end_s, made)


def finished_run(records: Sequence[RequestRecord], workload: Workload | None = None) -> Run:
    return Run(
        mode="grpc",
        address=None,
        model=MODEL,
        machine=Machine("a <CPU> & more", 2, "avx2", "Linux"),
        workload=workload or Workload(num_requests=max(1, len(records))),
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        records=records,
        results=Results.of(records),
    )
