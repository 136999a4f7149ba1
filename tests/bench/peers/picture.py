"""The table as a picture: one panel of bars per rate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from phi3svc.bench.svg import COLORS, FAINT, add_text, new_picture, to_text
from tests.bench.peers.catalog import FORMAT_CLASSES
from tests.bench.peers.report import Setting
from tests.bench.peers.summary import RATES, Line

LABELS, PANEL, GAP, ROW, TOP = 234, 190, 26, 20, 96
KIND_GAP = 14


def to_svg(lines: Sequence[Line], setting: Setting) -> str:
    """The text of an SVG file. Ours in one colour, the others in another, failures absent."""
    shown = [x for kind in FORMAT_CLASSES for x in lines if x.entry.kind == kind and x.figures]
    kinds = len({line.entry.kind for line in shown})
    height = TOP + ROW * len(shown) + KIND_GAP * kinds + 16
    root = new_picture(LABELS + (PANEL + GAP) * len(RATES), height)
    title = f"Tokens per second, Phi-3-mini's shape, {setting.num_layers} layers, random weights"
    add_text(root, 16, 28, title, font_size="15", font_weight="bold")
    add_text(
        root, 16, 50, f"{setting.cpu}, {setting.num_threads} threads · {setting.date}",
        font_size="13",
    )  # fmt: skip
    places = _places(shown)
    for line, y in zip(shown, places, strict=True):
        weight = "bold" if line.entry.is_ours else "normal"
        name = f"{line.entry.engine} {line.entry.format}"
        add_text(root, LABELS - 10, y + 13, name, anchor="end", font_weight=weight)
    for i, (rate, title) in enumerate(RATES.items()):
        _panel(root, LABELS + i * (PANEL + GAP), shown, places, rate, title)
    return to_text(root)


def _places(shown: Sequence[Line]) -> list[float]:
    y, places = float(TOP), []
    for i, line in enumerate(shown):
        if i and line.entry.kind != shown[i - 1].entry.kind:
            y += KIND_GAP
        places.append(y)
        y += ROW
    return places


def _panel(
    root: ET.Element,
    x: float,
    shown: Sequence[Line],
    places: Sequence[float],
    rate: str,
    title: str,
) -> None:
    panel = ET.SubElement(root, "g")
    add_text(panel, x, TOP - 14, title, font_size="13", font_weight="bold")
    most = max((line.figures[rate] for line in shown), default=1.0)
    for line, y in zip(shown, places, strict=True):
        value = line.figures[rate]
        width = (PANEL - 36) * value / most
        bar = {"x": f"{x:.1f}", "y": f"{y + 2:.1f}", "height": f"{ROW - 5}"}
        color = COLORS[1] if line.entry.is_ours else COLORS[0]
        ET.SubElement(panel, "rect", bar | {"width": f"{width:.1f}", "fill": color})
        text = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
        add_text(panel, x + width + 4, y + 13, text, font_size="11")
    if places:
        line = {"x1": x, "x2": x, "y1": TOP, "y2": places[-1] + ROW}
        attributes = {name: f"{place:.1f}" for name, place in line.items()}
        ET.SubElement(panel, "line", attributes | {"stroke": FAINT})
