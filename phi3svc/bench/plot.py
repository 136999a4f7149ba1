"""A run as a picture: two distributions, and tokens per second over time."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from phi3svc.bench.axis import Axis
from phi3svc.bench.results import TokenRate
from phi3svc.bench.run import Run
from phi3svc.bench.statistics import percentile
from phi3svc.bench.svg import Curve, Point, add_panel, add_text, new_picture, to_text

WIDTH, HEIGHT = 1000, 760
MAX_POINTS = 500


def plot(run: Run) -> str:
    """The text of an SVG file."""
    root = new_picture(WIDTH, HEIGHT)
    add_text(root, 24, 32, f"phi3svc bench · {run.title()}", font_size="15", font_weight="bold")
    results = run.results
    rates = f"{results.tokens_per_s:,.0f} tokens/s, {results.requests_per_s:,.2f} requests/s"
    add_text(root, 24, 54, f"{run.subtitle()} · {rates}", font_size="13")
    latencies = results.latencies
    _distributions(
        root, (80, 480), "Time to first token", {"time to first token": latencies.first_token}
    )
    gaps = {"per token": latencies.between_tokens, "per message": latencies.between_messages}
    _distributions(root, (580, 976), "Time between tokens", gaps)
    rate = TokenRate.of(run.records, results.duration_s)
    heights = [0.0, *rate.tokens_per_s]
    edges = [i * rate.bin_s for i in range(len(rate.tokens_per_s))] + [results.duration_s]
    mean = results.tokens_per_s
    curves = [
        Curve(f"tokens/s, bins of {rate.bin_s:g} s", _bars(edges, heights)),
        Curve(f"mean of the run, {mean:,.0f}", [(0.0, mean), (results.duration_s, mean)], True),
    ]
    top = max([*heights, mean]) * 1.05 or 1.0
    add_panel(
        root,
        Axis(0.0, results.duration_s or 1.0, 80, 976),
        Axis(0.0, top, 700, 490),
        curves,
        title="Tokens per second over time",
        x_label="seconds since the start of the run",
        y_label="tokens per second",
    )
    return to_text(root)


def _distributions(
    root: ET.Element, span: tuple[float, float], title: str, samples: dict[str, list[float]]
) -> None:
    """Cumulative distributions of samples in seconds, shown in milliseconds."""
    in_ms = {name: sorted(1000 * s for s in values) for name, values in samples.items() if values}
    curves = [Curve(_name(name, values), cumulative(values)) for name, values in in_ms.items()]
    x = Axis.around(
        [value for values in in_ms.values() for value in (values[0], values[-1])], *span
    )
    add_panel(
        root,
        x,
        Axis(0.0, 1.0, 360, 150),
        curves,
        title=title,
        x_label="milliseconds" + ", logarithmic" * x.is_log,
        y_label="fraction not above",
    )


def cumulative(ordered: Sequence[float]) -> list[Point]:
    """The fraction of values that are not above each; at most MAX_POINTS, both ends included."""
    num_values = len(ordered)
    num_points = min(num_values, MAX_POINTS)
    ranks = sorted({max(1, round((i + 1) * num_values / num_points)) for i in range(num_points)})
    return [(ordered[0], 0.0), *((ordered[rank - 1], rank / num_values) for rank in ranks)]


def _bars(edges: Sequence[float], heights: Sequence[float]) -> list[Point]:
    """Bin i, from edges[i] to edges[i + 1], at heights[i + 1], as a line in steps."""
    points = [(edges[0], heights[0])]
    for edge, height in zip(edges, heights[1:], strict=False):
        points.append((edge, height))
    return [*points, (edges[-1], heights[-1])]


def _name(name: str, ordered: Sequence[float]) -> str:
    p50, p99 = percentile(ordered, 50), percentile(ordered, 99)
    return f"{name}: p50 {p50:,.2f} ms, p99 {p99:,.2f} ms"
