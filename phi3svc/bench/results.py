"""From the records of a run to its figures. Only completed requests count, failed ones apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phi3svc.bench.record import RequestRecord
from phi3svc.bench.statistics import Summary

MAX_BINS = 60


@dataclass(frozen=True)
class Latencies:
    """Samples in seconds, as `RequestRecord` defines them.

    Per request: send_delay, first_token, per_output_token, total. Between messages and between
    tokens: one per gap of every request.
    """

    first_token: list[float]
    between_tokens: list[float]
    between_messages: list[float]
    per_output_token: list[float]
    total: list[float]
    send_delay: list[float]


@dataclass(frozen=True)
class StatusCount:
    """How often a status ended requests, and the message of the first."""

    count: int
    message: str


@dataclass(frozen=True)
class Results:
    """A whole run. duration_s: from its start to the end of its last request."""

    num_requests: int
    num_completed: int
    num_tokens: int
    num_messages: int
    duration_s: float
    errors: dict[str, StatusCount]
    latencies: Latencies

    @classmethod
    def of(cls, records: Sequence[RequestRecord]) -> Results:
        ok = [record for record in records if record.is_ok]
        return cls(
            num_requests=len(records),
            num_completed=len(ok),
            num_tokens=sum(record.num_tokens for record in ok),
            num_messages=sum(len(record.messages) for record in ok),
            duration_s=max((record.end_s for record in records), default=0.0),
            errors=_errors(records),
            latencies=Latencies(
                first_token=[r.first_token_s for r in ok if r.first_token_s is not None],
                between_tokens=[gap for r in ok for gap in r.token_gaps_s()],
                between_messages=[gap for r in ok for gap in r.message_gaps_s()],
                per_output_token=[
                    r.per_output_token_s for r in ok if r.per_output_token_s is not None
                ],
                total=[r.total_s for r in ok],
                send_delay=[r.send_delay_s for r in ok],
            ),
        )

    @property
    def requests_per_s(self) -> float:
        return self.num_completed / self.duration_s if self.duration_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.duration_s if self.duration_s else 0.0

    def summaries(self) -> dict[str, Summary | None]:
        """By the names of `Latencies`, in its order."""
        return {name: Summary.of(values) for name, values in vars(self.latencies).items()}


@dataclass(frozen=True)
class TokenRate:
    """Tokens per second in bins of `bin_s` seconds from the start of the run.

    The last bin reaches to the end of the run: from half to one and a half times as wide.
    """

    bin_s: float
    tokens_per_s: list[float]

    @classmethod
    def of(cls, records: Sequence[RequestRecord], duration_s: float) -> TokenRate:
        """Bins of 1, 2 or 5 times a power of ten seconds, at most MAX_BINS."""
        bin_s = nice_step(duration_s, MAX_BINS)
        counts = [0] * max(1, round(duration_s / bin_s))
        for record in records:
            for message in record.messages if record.is_ok else ():
                counts[min(int(message.time_s / bin_s), len(counts) - 1)] += message.num_tokens
        widths = [bin_s] * len(counts)
        widths[-1] = duration_s - bin_s * (len(counts) - 1) or bin_s
        return cls(bin_s, [count / width for count, width in zip(counts, widths, strict=True)])


def nice_step(span: float, max_steps: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten of which `max_steps` cover `span`."""
    if span <= 0:
        return 1.0
    least = span / max_steps
    power = 10.0 ** math.floor(math.log10(least))
    return next((m * power for m in (1, 2, 5) if m * power >= least), 10 * power)


def _errors(records: Sequence[RequestRecord]) -> dict[str, StatusCount]:
    found: dict[str, StatusCount] = {}
    for record in records:
        if not record.is_ok:
            before = found.get(record.status, StatusCount(0, record.error))
            found[record.status] = StatusCount(before.count + 1, before.message)
    return dict(sorted(found.items(), key=lambda item: -item[1].count))
