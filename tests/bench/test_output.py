"""What comes out of a run: table, JSON, picture."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from phi3svc.bench.axis import Axis
from phi3svc.bench.plot import MAX_POINTS, cumulative, plot
from phi3svc.bench.record import RequestRecord
from phi3svc.bench.report import print_report
from phi3svc.bench.run import Run
from phi3svc.bench.statistics import percentile
from phi3svc.bench.workload import Workload
from tests.bench.fakes import finished_run, record

SVG = "{http://www.w3.org/2000/svg}"


def some_run() -> Run:
    ok = [
        record(i, [(i + 0.5, 1), (i + 0.6, 2), (i + 0.9 + i / 10, 1)], end_s=i + 2.0)
        for i in range(5)
    ]
    failed = RequestRecord(0.0, 0.0, end_s=0.1, status="UNAVAILABLE", error="gone [away]")
    return finished_run([*ok, failed], Workload(num_requests=6, rate=1.0))


def text_of(run: Run) -> str:
    out = io.StringIO()
    print_report(run, Console(file=out, width=120, highlight=False))
    return out.getvalue()


def test_piped_table_is_plain_text_with_every_row() -> None:
    text = text_of(some_run())
    assert not set(text) & set("\x1b│─╭")
    rows = {line[:19].strip(): line[19:].split() for line in text.splitlines() if "." in line}
    assert rows["time to first token"] == ["500.00"] * 6
    assert rows["total"][-1] == "2,000.00"
    assert "1 × UNAVAILABLE: gone [away]" in text
    assert "sent late by" in text


def test_closed_loop_has_no_late_sending() -> None:
    closed = finished_run([record(0.0, [(1.0, 1)], 1.0)], Workload(num_requests=1, concurrency=1))
    assert "sent late by" not in text_of(closed)


def test_run_without_success_still_reports() -> None:
    failed = [RequestRecord(0.0, 0.0, end_s=0.1, status="INTERNAL", error="bug")]
    run = finished_run(failed)
    assert "1 × INTERNAL: bug" in text_of(run)
    assert json.loads(json.dumps(run.to_json()))["results"]["latencies_ms"]["total"] is None
    ET.fromstring(plot(run))


def test_json_has_what_a_comparison_needs() -> None:
    run = some_run()
    data = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert data["format"] == "phi3svc-bench/1"
    assert data["started_at"] == "2026-01-02T03:04:05+00:00"
    assert set(data) == {
        *("format", "started_at", "mode", "address", "model", "workload", "machine"),
        *("versions", "results", "token_rate", "requests"),
    }
    assert data["machine"]["isa"] == "avx2"
    assert data["workload"]["rate"] == 1.0
    assert {"python", "phi3svc", "grpcio", "torch"} <= set(data["versions"])
    results = data["results"]
    assert results["num_completed"] == 5
    assert results["num_generated_tokens"] == 20
    assert results["num_messages"] == 15
    assert results["errors"] == {"UNAVAILABLE": {"count": 1, "message": "gone [away]"}}
    for name in ("first_token", "between_tokens", "between_messages", "total", "send_delay"):
        summary = results["latencies_ms"][name]
        assert set(summary) == {"count", "mean", "p50", "p90", "p95", "p99", "max"}
    assert results["latencies_ms"]["first_token"]["p99"] == pytest.approx(500)
    assert results["latencies_ms"]["between_tokens"]["count"] == 15
    assert [r["status"] for r in data["requests"]] == ["OK"] * 5 + ["UNAVAILABLE"]
    assert data["requests"][0]["num_tokens"] == 4


def test_plot_is_well_formed_and_shows_every_series() -> None:
    run = some_run()
    root = ET.fromstring(plot(run))
    assert root.tag == f"{SVG}svg"
    curves = {path.findtext(f"{SVG}title", ""): path for path in root.iter(f"{SVG}path")}
    texts = {text.text or "" for text in root.iter(f"{SVG}text")}
    starts = ("time to first token", "per token", "per message", "tokens/s", "mean of the run")
    for start in starts:
        [name] = [name for name in curves if name.startswith(start)]
        assert name in texts, "in the legend"
        assert len(curves[name].get("d", "")) > 10
    assert "seconds since the start of the run" in texts
    assert any("a <CPU> & more" in text for text in texts)
    width, height = (float(root.get(side, "0")) for side in ("width", "height"))
    for line in root.iter(f"{SVG}line"):
        assert all(0 <= float(line.get(end, "-1")) <= width for end in ("x1", "x2"))
        assert all(0 <= float(line.get(end, "-1")) <= height for end in ("y1", "y2"))


@pytest.mark.parametrize("size", [1, 2, 499, 500, 501, 12345])
def test_cumulative_ends_at_all(size: int) -> None:
    ordered = [float(i) for i in range(size)]
    points = cumulative(ordered)
    assert len(points) <= MAX_POINTS + 1
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (size - 1.0, 1.0)
    for value, fraction in points[1:]:
        assert fraction == pytest.approx(sum(v <= value for v in ordered) / size)


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([3.0], False), ([0.0], False), ([0.0, 50.0], False), ([1.0, 19.0], False), ([1, 30], True)],
)
def test_axis_shows_its_values_between_round_ticks(values: list[float], is_log: bool) -> None:
    axis = Axis.around(values, 10.0, 110.0)
    assert axis.is_log == is_log
    assert all(10 <= axis.place(value) <= 110 for value in values)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert all(10 <= axis.place(tick) <= 110 for tick in ticks)


def test_curve_crosses_the_middle_at_the_median() -> None:
    ordered = sorted([1.0, 5.0, 2.0, 9.0, 4.0])
    middle = next(value for value, fraction in cumulative(ordered) if fraction >= 0.5)
    assert middle == percentile(ordered, 50)
