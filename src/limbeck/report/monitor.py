"""The part of the report about teacher hacking: both distances on logarithmic axes, and the finding in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from limbeck.report.curves import points
from limbeck.report.figures import Figure, axis, log_ticks
from limbeck.report.markup import Html, tag
from limbeck.report.numbers import number, plain
from limbeck.report.words import measure

Record = Mapping[str, Any]


def monitor(record: Record) -> list[Html | None]:
    """The sentence, and what is compared with what."""
    given = record.get("monitor") or {}
    if not given.get("sentence"):
        return []
    finding, names = given.get("finding") or {}, _names(given)
    truth, part = given.get("truth") or "the truth", given.get("part") or "valid"
    said = f"Both on the {part} part: the distance to the teacher ({names[0]}) and that to {truth} ({names[1]})."
    departed = number(finding.get("departed"))
    if departed is not None:
        said += (
            f" From step {plain(departed, 0)} on the distance to the teacher lies above the power law of its beginning. A "
            "student too small for its teacher does that too."
        )
    kind = "finding worse" if given.get("alarm") else None
    return [tag("p", given["sentence"], class_=kind), tag("p", said, class_="note")]


def warning(given: Record) -> str:
    """What a run's record says when its student moved away from the truth."""
    names = " against ".join(_names(given))
    return (
        f"{given['sentence']} ({names}, {given['part']} part.) Fresh or more prompts, fewer steps, or answers that the "
        "teacher writes anew help; docs/guard.md says more."
    )


def figures(record: Record) -> list[Figure]:
    """Both distances over the steps, and one against the other; logarithmic, so that power laws are straight."""
    given = record.get("monitor") or {}
    steps = given.get("step") or []
    lines = {name: _positive(*points(steps, given.get(name) or [])[:2]) for name in ("proxy", "golden")}
    if any(len(line) < 2 for line in lines.values()):
        return []
    return [_over_steps(given, lines), _against(given, lines)]


def _positive(xs: list[float], ys: list[float]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(xs, ys) if x > 0 and y > 0]


def _over_steps(given: Record, lines: dict[str, list[tuple[float, float]]]) -> Figure:
    finding, names = given.get("finding") or {}, _names(given)
    labels = {"proxy": "to the teacher", "golden": f"to {given.get('truth') or 'the truth'}"}
    looks = {"proxy": ("var(--teacher)", "square"), "golden": ("var(--student)", "circle")}
    traces: list[dict[str, Any]] = []
    for place, (name, line) in enumerate(lines.items()):
        colour, symbol = looks[name]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": labels[name], "x": [x for x, _ in line],
            "y": [y for _, y in line], "line": {"color": colour, "width": 2},
            "marker": {"size": 5, "symbol": symbol, "color": colour},
            "hovertemplate": f"{names[place]} <b>%{{y:.4g}}</b><br>step %{{x:,}}<extra></extra>",
        })  # fmt: skip
    scale, power = number(finding.get("scale")), number(finding.get("power"))
    if scale and power is not None:
        ends = [lines["proxy"][0][0], lines["proxy"][-1][0]]
        traces.append({
            "type": "scatter", "mode": "lines", "name": "its early power law", "x": ends, "hoverinfo": "skip",
            "y": [scale * step**-power for step in ends],
            "line": {"color": "var(--teacher)", "width": 1, "dash": "dash"},
        })  # fmt: skip
    if turned := number(finding.get("turned")):
        traces.append(_mark(turned, dict(lines["golden"]).get(turned), "turned here"))
    everything = [y for trace in traces for y in trace["y"]]
    layout = {
        "xaxis": _log("step", [x for line in lines.values() for x, _ in line], lambda value: plain(value, 0)),
        "yaxis": _log("distance", everything, plain), "showlegend": True,
    }  # fmt: skip
    alt = " ".join(
        f"Distance {labels[name]}: {plain(line[0][1])} to {plain(line[-1][1])}." for name, line in lines.items()
    )
    return Figure("monitor-steps", "Distances over the steps", alt, traces, layout, 380)


def _against(given: Record, lines: dict[str, list[tuple[float, float]]]) -> Figure:
    """Golden against proxy: training goes from the upper right to the lower left, and bends up where it hacks."""
    golden = dict(lines["golden"])
    path = [(near, golden[step], step) for step, near in lines["proxy"] if step in golden]
    trace = {
        "type": "scatter", "mode": "lines+markers", "x": [near for near, _, _ in path], "y": [true for _, true, _ in path],
        "customdata": [step for *_, step in path], "line": {"color": "var(--student)", "width": 2},
        "marker": {"size": 6, "color": "var(--student)"},
        "hovertemplate": "to the teacher %{x:.4g}<br>to the truth %{y:.4g}<br>step %{customdata:,}<extra></extra>",
    }  # fmt: skip
    places = (path[0], path[-1])
    ends = {
        "type": "scatter", "mode": "text", "hoverinfo": "skip", "text": ["start", "end"],
        "textposition": ["top center", "bottom center"], "x": [near for near, _, _ in places],
        "y": [true for _, true, _ in places],
    }  # fmt: skip
    layout = {
        "xaxis": _log("distance to the teacher", [near for near, _, _ in path], plain),
        "yaxis": _log(f"distance to {given.get('truth') or 'the truth'}", [true for _, true, _ in path], plain),
    }  # fmt: skip
    caption = (
        "Down and to the left is better. A path that bends upward while it goes to the left is hacking its teacher."
    )
    return Figure("monitor-path", "One against the other", caption, [trace, ends], layout, 380, caption)


def _mark(x: float, y: float | None, name: str) -> dict[str, Any]:
    marker = {"size": 13, "symbol": "circle-open", "color": "var(--bad)", "line": {"width": 2.5, "color": "var(--bad)"}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x],
        "y": [y],
        "marker": marker,
        "hoverinfo": "skip",
    }


def _log(title: str, values: list[float], write: Any) -> dict[str, Any]:
    found = [value for value in values if value and value > 0 and math.isfinite(value)]
    low, high = min(found), max(found)
    edge = max((high / low) ** 0.06, 1.02)
    return axis(f"{title} (log)", **log_ticks(low / edge, high * edge, write))


def _names(given: Record) -> tuple[str, str]:
    names = [*(given.get("names") or []), "", ""]
    oracle = given.get("truth") == "the oracle"
    golden = "the same measure" if oracle and names[0] == names[1] else measure(str(names[1])).name
    return measure(str(names[0])).name, golden
