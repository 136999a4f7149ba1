"""A finished run: what was asked, of whom, on what, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from phi3svc.bench.machine import Machine, versions
from phi3svc.bench.record import RequestRecord
from phi3svc.bench.results import Results, TokenRate
from phi3svc.bench.statistics import Summary
from phi3svc.bench.target import TargetModel
from phi3svc.bench.workload import Workload

FORMAT = "phi3svc-bench/1"

Mode = Literal["engine", "grpc"]


@dataclass(frozen=True)
class Run:
    """address: of the server that was there already; None for one of our own."""

    mode: Mode
    address: str | None
    model: TargetModel
    machine: Machine
    workload: Workload
    started_at: datetime
    records: Sequence[RequestRecord]
    results: Results

    def title(self) -> str:
        """Where it ran, in one line."""
        machine = f"{self.machine.cpu}, {self.machine.num_cpus} CPUs"
        where = f"server {self.address}" if self.address else f"{machine}, {self.machine.isa}"
        return f"{self.mode} · {self.model.name} ({self.model.dtype}) · {where}"

    def subtitle(self) -> str:
        """What was asked, in one line."""
        load = self.workload
        if load.is_open_loop:
            how = f"open loop, {load.rate:g} per second" if load.rate else "all at once"
        else:
            how = f"closed loop, {load.concurrency} at once"
        at_most = "" if load.ignore_eos else "up to "
        return (
            f"{load.num_requests} requests, {load.prompt_len} prompt tokens, "
            f"{at_most}{load.max_new_tokens} new tokens · {how}"
        )

    def to_json(self) -> dict[str, object]:
        """Plain values; times in the unit that their names end in."""
        results = self.results
        rate = TokenRate.of(self.records, results.duration_s)
        return {
            "format": FORMAT,
            "started_at": self.started_at.astimezone(UTC).isoformat(timespec="seconds"),
            "mode": self.mode,
            "address": self.address,
            "model": asdict(self.model),
            "workload": asdict(self.workload),
            "machine": asdict(self.machine),
            "versions": versions(),
            "results": {
                "num_requests": results.num_requests,
                "num_completed": results.num_completed,
                "num_generated_tokens": results.num_tokens,
                "num_messages": results.num_messages,
                "duration_s": results.duration_s,
                "requests_per_s": results.requests_per_s,
                "tokens_per_s": results.tokens_per_s,
                "errors": {status: asdict(error) for status, error in results.errors.items()},
                "latencies_ms": {
                    name: _in_ms(summary) for name, summary in results.summaries().items()
                },
            },
            "token_rate": asdict(rate),
            "requests": [_request_to_json(record) for record in self.records],
        }


def _in_ms(summary: Summary | None) -> dict[str, float] | None:
    if summary is None:
        return None
    scaled = {name: value * 1000 for name, value in asdict(summary).items()}
    return scaled | {"count": summary.count}


def _request_to_json(record: RequestRecord) -> dict[str, object]:
    return {
        "intended_s": record.intended_s,
        "sent_s": record.sent_s,
        "end_s": record.end_s,
        "first_token_s": record.first_token_s,
        "num_tokens": record.num_tokens,
        "num_messages": len(record.messages),
        "status": record.status,
    }
