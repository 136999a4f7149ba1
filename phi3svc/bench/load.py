"""Sends the requests, at their times (open loop) or a fixed number at once (closed loop)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from phi3svc.bench.arrivals import poisson_arrivals
from phi3svc.bench.record import Message, RequestRecord
from phi3svc.bench.status import status_name
from phi3svc.bench.target import Target
from phi3svc.bench.workload import Workload
from phi3svc.errors import Phi3Error

OnDone = Callable[[RequestRecord], None]


async def run_load(target: Target, workload: Workload, on_done: OnDone) -> list[RequestRecord]:
    """Warm up, then run; one record per request, in the order of the prompts.

    on_done: called with each record when its request has ended.
    """
    vocab_size = target.model.vocab_size
    warmup = workload.warmup_prompts(vocab_size)
    await closed_loop(target, warmup, workload.concurrency or len(warmup), lambda _: None)
    prompts = workload.prompts(vocab_size)
    if workload.is_open_loop:
        arrivals = poisson_arrivals(workload.rate, workload.num_requests, workload.seed)
        return await open_loop(target, prompts, arrivals, on_done)
    return await closed_loop(target, prompts, workload.concurrency, on_done)


async def open_loop(
    target: Target, prompts: Sequence[list[int]], arrivals: Sequence[float], on_done: OnDone
) -> list[RequestRecord]:
    """Sends each prompt at its arrival (seconds, ascending), however many are still running."""
    run = _Run(target, on_done)
    async with asyncio.TaskGroup() as group:
        tasks = []
        for prompt_ids, arrival_s in zip(prompts, arrivals, strict=True):
            delay_s = arrival_s - run.now_s()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            tasks.append(group.create_task(run.measure(prompt_ids, arrival_s)))
    return [task.result() for task in tasks]


async def closed_loop(
    target: Target, prompts: Sequence[list[int]], concurrency: int, on_done: OnDone
) -> list[RequestRecord]:
    """Keeps `concurrency` requests running; the next is sent when one has ended."""
    run = _Run(target, on_done)
    waiting = iter(enumerate(prompts))
    records: dict[int, RequestRecord] = {}

    async def work() -> None:
        for i, prompt_ids in waiting:
            records[i] = await run.measure(prompt_ids, run.now_s())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(prompts))):
            group.create_task(work())
    return [records[i] for i in range(len(prompts))]


class _Run:
    """A target and the clock of one run, which starts when this is made."""

    def __init__(self, target: Target, on_done: OnDone) -> None:
        self._target = target
        self._on_done = on_done
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._start_s

    async def measure(self, prompt_ids: list[int], intended_s: float) -> RequestRecord:
        """Send one request and note what comes; a failure is part of the record."""
        record = RequestRecord(intended_s, sent_s=self.now_s())
        try:
            async with aclosing(self._target.stream(prompt_ids)) as stream:
                async for num_tokens in stream:
                    record.messages.append(Message(self.now_s(), num_tokens))
        except Phi3Error as error:
            record.status, record.error = status_name(error), str(error)
        record.end_s = self.now_s()
        self._on_done(record)
        return record
