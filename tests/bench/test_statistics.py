"""Percentiles against numpy; latencies and rates against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from phi3svc.bench.record import RequestRecord
from phi3svc.bench.results import Results, TokenRate, nice_step
from phi3svc.bench.statistics import Summary, percentile
from tests.bench.fakes import record


@pytest.mark.parametrize("size", [1, 2, 3, 10, 101, 1000])
def test_summary_equals_numpy(size: int) -> None:
    values = np.random.default_rng(size).lognormal(size=size)
    summary = Summary.of(values.tolist())
    assert summary is not None
    assert summary.count == size
    assert summary.mean == pytest.approx(values.mean())
    assert summary.max == values.max()
    for percent in (50, 90, 95, 99):
        value = getattr(summary, f"p{percent}")
        assert value == pytest.approx(np.percentile(values, percent))


def test_percentile_ends_are_the_extremes() -> None:
    assert percentile([1.0, 2.0, 7.0], 0) == 1.0
    assert percentile([1.0, 2.0, 7.0], 100) == 7.0


def test_summary_of_nothing_is_none() -> None:
    assert Summary.of([]) is None


def test_latencies_count_from_the_intended_arrival() -> None:
    late = record(1.0, [(3.0, 1), (3.5, 1)], end_s=4.0, sent_s=2.5)
    assert late.send_delay_s == 1.5
    assert late.first_token_s == 2.0
    assert late.total_s == 3.0


def test_messages_of_several_tokens_are_divided() -> None:
    made = record(0.0, [(1.0, 2), (1.6, 3), (2.0, 1)], end_s=2.0)
    assert made.message_gaps_s() == pytest.approx([0.6, 0.4])
    assert made.token_gaps_s() == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert made.per_output_token_s == pytest.approx(1.0 / 5)
    assert record(0.0, [(1.0, 1)], end_s=1.0).per_output_token_s is None


def test_only_completed_requests_count() -> None:
    failed = RequestRecord(0.0, 0.0, end_s=4.0, status="UNAVAILABLE", error="gone")
    refused = [
        RequestRecord(0.0, 0.0, end_s=0.1, status="RESOURCE_EXHAUSTED", error=f"full {i}")
        for i in range(2)
    ]
    results = Results.of([record(0.0, [(1.0, 1), (2.0, 4)], end_s=2.0), failed, *refused])
    assert (results.num_requests, results.num_completed, results.num_tokens) == (4, 1, 5)
    assert results.duration_s == 4.0
    assert results.tokens_per_s == 1.25
    assert results.requests_per_s == 0.25
    assert results.latencies.total == [2.0]
    assert {name: (e.count, e.message) for name, e in results.errors.items()} == {
        "RESOURCE_EXHAUSTED": (2, "full 0"),
        "UNAVAILABLE": (1, "gone"),
    }


def test_token_rate_keeps_every_token() -> None:
    rng = np.random.default_rng(0)
    times = sorted(rng.uniform(0, 7.3, 200).tolist())
    records = [record(0.0, [(time_s, 3) for time_s in times], end_s=7.3)]
    rate = TokenRate.of(records, 7.3)
    num_bins = len(rate.tokens_per_s)
    widths = [rate.bin_s] * (num_bins - 1) + [7.3 - rate.bin_s * (num_bins - 1)]
    assert 10 < num_bins <= 60
    assert 0.5 <= widths[-1] / rate.bin_s <= 1.5
    assert np.dot(rate.tokens_per_s, widths) == pytest.approx(600)


@pytest.mark.parametrize(
    ("span", "step"), [(60.0, 1.0), (61.0, 2.0), (0.6, 0.01), (121.0, 5.0), (301.0, 10.0)]
)
def test_nice_step_is_the_smallest_that_covers(span: float, step: float) -> None:
    assert nice_step(span, 60) == pytest.approx(step)
