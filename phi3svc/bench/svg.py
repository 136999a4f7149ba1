"""A panel with axes, curves and a legend, as SVG. No dependency; any browser shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from phi3svc.bench.axis import Axis

NAMESPACE = "http://www.w3.org/2000/svg"
FONT = "system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"
# Okabe and Ito's: told apart by everybody.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
LEGEND_ROW = 18
INK, FAINT, BACKGROUND = "#222222", "#dddddd", "#ffffff"

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A named line through points in the units of the axes; drawn in steps, level to the right."""

    name: str
    points: Sequence[Point]
    is_dashed: bool = False


def new_picture(width: int, height: int) -> ET.Element:
    """An empty picture, in pixels."""
    size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
    root = ET.Element("svg", {"xmlns": NAMESPACE, "font-family": FONT, "fill": INK, **size})
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": BACKGROUND})
    return root


def add_text(
    parent: ET.Element, x: float, y: float, text: str, *, anchor: str = "start", **style: str
) -> None:
    """anchor: start, middle or end. style: further attributes, with _ for -."""
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": "12"}
    attributes |= {name.replace("_", "-"): value for name, value in style.items()}
    ET.SubElement(parent, "text", attributes).text = text


def add_panel(
    parent: ET.Element,
    x: Axis,
    y: Axis,
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> None:
    """y's start is below its end. Title and legend stand above, where they cover no curve."""
    panel = ET.SubElement(parent, "g")
    top = y.end - LEGEND_ROW * len(curves) - 14
    add_text(panel, x.start, top, title, font_size="14", font_weight="bold")
    for tick in x.ticks():
        place = x.place(tick)
        _line(panel, (place, y.start), (place, y.end), FAINT)
        add_text(panel, place, y.start + 16, _number(tick), anchor="middle")
    for tick in y.ticks():
        place = y.place(tick)
        _line(panel, (x.start, place), (x.end, place), FAINT)
        add_text(panel, x.start - 6, place + 4, _number(tick), anchor="end")
    _line(panel, (x.start, y.start), (x.end, y.start), INK)
    _line(panel, (x.start, y.start), (x.start, y.end), INK)
    add_text(panel, (x.start + x.end) / 2, y.start + 34, x_label, anchor="middle")
    middle = (y.start + y.end) / 2
    turn = f"rotate(-90 {x.start - 48:.1f} {middle:.1f})"
    add_text(panel, x.start - 48, middle, y_label, anchor="middle", transform=turn)
    for i, (curve, color) in enumerate(zip(curves, COLORS, strict=False)):
        _curve(panel, x, y, curve, color)
        _legend(panel, (x.start, top + LEGEND_ROW * (i + 1)), curve, color)


def to_text(root: ET.Element) -> str:
    """The file's content."""
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _curve(parent: ET.Element, x: Axis, y: Axis, curve: Curve, color: str) -> None:
    path = []
    for i, (x_value, y_value) in enumerate(curve.points):
        x_place, y_place = x.place(x_value), y.place(y_value)
        path.append(f"H{x_place:.1f}V{y_place:.1f}" if i else f"M{x_place:.1f} {y_place:.1f}")
    style = {"fill": "none", "stroke-width": "2", "stroke-linejoin": "round"}
    style |= _stroke(color, curve.is_dashed)
    element = ET.SubElement(parent, "path", {"d": "".join(path), **style})
    ET.SubElement(element, "title").text = curve.name


def _legend(parent: ET.Element, place: Point, curve: Curve, color: str) -> None:
    left, base = place
    _line(parent, (left, base - 4), (left + 24, base - 4), color, is_dashed=curve.is_dashed)
    add_text(parent, left + 30, base, curve.name)


def _line(
    parent: ET.Element, start: Point, end: Point, color: str, *, is_dashed: bool = False
) -> None:
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    attributes = {name: f"{value:.1f}" for name, value in ends.items()}
    ET.SubElement(parent, "line", attributes | _stroke(color, is_dashed))


def _stroke(color: str, is_dashed: bool) -> dict[str, str]:
    return {"stroke": color} | ({"stroke-dasharray": "6 4"} if is_dashed else {})


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
