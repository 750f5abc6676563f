"""The plots of what is paid and what is got: main score against size, and against latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.report import numbers
from limbeck.report.compare import common_latency, cost, latencies, models_of, score
from limbeck.report.details import FORMATS
from limbeck.report.figures import SYMBOLS, Figure, axis, colour, log_ticks, words
from limbeck.report.numbers import Stat, positive, stat
from limbeck.report.text import way_name
from limbeck.report.words import Measure, main_measure, measure

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A model in the plot: its place in x, the end of its bar in x, and its score. `hollow`: an exported file."""

    role: str
    name: str
    found: Stat
    x: float
    high: float | None = None
    hollow: bool = False


def trade_offs(record: Record) -> list[Figure]:
    """Main score against size, and against latency where the models were timed in the same way."""
    main = main_measure(record)
    scored = [(model, found) for model in models_of(record) if main and (found := score(model, main.key))]
    if main is None or not scored:
        return []
    better = {"more": "Up and to the left is better.", "less": "Down and to the left is better."}.get(main.better, "")
    figures = []
    key = next((key for key in ("bytes", "parameters") if all(cost(model, key) for model, _ in scored)), None)
    if key:
        points = [Point(str(m.get("role")), str(m.get("name")), found, cost(m, key) or 0) for m, found in scored]
        points += _exported(record, main, points) if key == "bytes" else []
        note = better + (" Hollow: an exported file." if any(point.hollow for point in points) else "")
        write = numbers.size if key == "bytes" else numbers.count
        figures.append(_trade_off("size", "size", measure(key).label.lower(), write, main, points, note))
    way = common_latency([model for model, _ in scored])
    if way:
        points = []
        for model, found in scored:
            timed = latencies(model)[way]
            p95 = positive(timed.get("p95_ms"))
            points.append(Point(str(model.get("role")), str(model.get("name")), found, timed["p50_ms"], p95))
        note = f"{better} Bars to the right reach the 95th percentile.".strip()
        label = f"median latency ({way_name(way)})"
        figures.append(_trade_off("latency", "latency", label, numbers.milliseconds, main, points, note))
    return figures


def _exported(record: Record, main: Measure, points: list[Point]) -> list[Point]:
    """Exports whose size differs visibly from that of the models: a quantized file, as a rule."""
    result: list[Point] = []
    for export in record.get("exports") or []:
        found, size = stat((export.get("scores") or {}).get(main.key)), positive(export.get("bytes"))
        if found and size and all(abs(size / point.x - 1) > 0.15 for point in [*points, *result]):
            result.append(
                Point("student", FORMATS.get(form := str(export.get("format")), form), found, size, hollow=True)
            )
    return result


def _trade_off(
    key: str, against: str, label: str, write: Callable[[float], str], main: Measure, points: list[Point], caption: str
) -> Figure:
    scale = 100 if main.share else 1
    lowest = min(point.found.mean - (point.found.std or 0) for point in points)
    highest = max(point.found.mean + (point.found.std or 0) for point in points)
    pad = max((highest - lowest) * 0.2, abs(highest) * 0.002, 1e-12)
    top = min(highest + pad, max(1.0, highest) + 0.3 * pad) if main.share else highest + pad  # there is no 102 %
    left, right = min(point.x for point in points), max(point.high or point.x for point in points)
    margin = max(1.8, (right / left) ** 0.15)
    low, high = left / margin, right * margin
    places = _positions(points, low, high, highest - lowest + 2 * pad)
    traces = [_trace(point, place, main, label, write) for point, place in zip(points, places)]
    layout = {
        "xaxis": axis(label, **log_ticks(low, high, write)),
        "yaxis": axis(main.label + (" (%)" if main.share else ""), range=[(lowest - pad) * scale, top * scale]),
        "hovermode": "closest",
    }
    said = "; ".join(f"{point.name}: {main.text(point.found.mean)} at {write(point.x)}" for point in points)
    alt = f"{main.label} against {label}. {said}."
    return Figure(key, f"{main.label} against {against}", alt, traces, layout, 360, caption)


def _trace(point: Point, place: str, main: Measure, label: str, write: Callable[[float], str]) -> dict[str, Any]:
    """A point with its name beside it, its spread as a bar, and p95 as a bar to the right."""
    own, scale = colour(point.role), 100 if main.share else 1
    hover = [f"<b>{words(point.name)}</b>", f"{words(main.label)} {main.spread(point.found)}"]
    hover += [f"{words(label)} {write(point.x)}", *([f"95th percentile {write(point.high)}"] if point.high else [])]
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers+text", "x": [point.x], "y": [point.found.mean * scale], "cliponaxis": False,
        "text": [f"\u2002{words(point.name, 28)}\u2002"], "textposition": place,
        "textfont": {"size": 13, "color": "var(--ink)"},
        "marker": {"size": 13, "color": "var(--paper)" if point.hollow else own,
                   "symbol": SYMBOLS.get(point.role, "x"), "line": {"width": 2, "color": own}},
        "hovertemplate": "<br>".join(hover) + "<extra></extra>",
    }  # fmt: skip
    bar = {"type": "data", "color": own, "thickness": 1.5, "width": 5}
    if point.found.std:
        trace["error_y"] = bar | {"array": [point.found.std * scale]}
    if point.high and point.high > point.x:
        trace["error_x"] = bar | {"symmetric": False, "array": [point.high - point.x], "arrayminus": [0]}
    return trace


def _positions(points: list[Point], low: float, high: float, height: float) -> list[str]:
    """Where each name goes, so that neighbours do not cover each other: to the side that has room, apart in height."""
    places = [math.log(point.x / low) / math.log(high / low) for point in points]
    result = []
    for mine, place in zip(points, places):
        near = [
            other
            for other, at in zip(points, places)
            if other is not mine and abs(at - place) < 0.3 and abs(other.found.mean - mine.found.mean) < 0.12 * height
        ]
        above = all((mine.found.mean, mine.x) >= (other.found.mean, other.x) for other in near)
        beside = not near and not mine.high  # a bar to the right would run through the name
        centred = near and not mine.found.std and not mine.high
        side = "center" if centred else "right" if place < 0.55 else "left"
        result.append(f"{'middle' if beside else 'top' if above else 'bottom'} {side}")
    return result
