"""The plots of how the student learnt: terms of the loss, and scores over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import numbers
from limbeck.report.figures import Figure, axis, colour, log_ticks, words
from limbeck.report.numbers import number
from limbeck.report.words import measure

Record = Mapping[str, Any]
COLOURS = 6  # --term1 to --term6 in the style sheet; the next six terms have the same ones, dashed
MOST = 600  # points of a line that are drawn
NOISY = 60  # points above which a line is smoothed


def curves(record: Record) -> list[Figure]:
    """Every learner's terms over its steps: the values as logged, thin, and above 60 points their running mean."""
    made = [_learner(place, *item) for place, item in enumerate((record.get("curves") or {}).items())]
    return [figure for figure in made if figure]


def _learner(place: int, learner: str, terms: Mapping[str, Any]) -> Figure | None:
    steps, terms = (terms or {}).get("step") or [], terms or {}
    lines = {name: points(steps, values or []) for name, values in terms.items() if name != "step"}
    lines = {name: line for name, line in lines.items() if line[0]}
    if not lines:
        return None
    smooth = any(len(xs) > NOISY for xs, _, _ in lines.values())
    every = max(every for _, _, every in lines.values())
    looks = _looks(list(lines))
    traces = [trace for name, (xs, ys, _) in lines.items() for trace in _line(name, xs, ys, looks[name], smooth)]
    caption = "Each term as logged, before its weight."
    caption += " Thin: logged values; thick: their running mean." if smooth else ""
    caption += f" Every {every}th value is drawn." if every > 1 else ""
    layout = {
        "xaxis": step_axis([x for xs, _, _ in lines.values() for x in xs]),
        "yaxis": _loss_axis([y for _, ys, _ in lines.values() for y in ys]),
        "showlegend": True,
        "hovermode": "x unified" if len(lines) <= 8 else "closest",
    }
    ends = [f"{name}: from {numbers.plain(ys[0])} to {numbers.plain(ys[-1])}." for name, (_, ys, _) in lines.items()]
    title = "Terms of the loss" if learner == "student" else f"Terms of the loss: {learner}"
    return Figure(f"curves{place}", title, " ".join([f"{title}.", *ends]), traces, layout, 400, caption)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash of each term; the sum of all is in ink."""
    terms = [name for name in names if name not in ("total", "loss", "sum")]
    looks = {name: {"color": "var(--ink)"} for name in names}
    for place, name in enumerate(terms):
        looks[name] = {"color": f"var(--term{place % COLOURS + 1})", "dash": "solid" if place < COLOURS else "dash"}
    return looks


def _line(name: str, xs: list[float], ys: list[float], look: dict[str, Any], smooth: bool) -> list[dict[str, Any]]:
    """The trace of a term; where lines are smoothed, the logged values faintly behind it."""
    shared = {
        "type": "scatter", "mode": "lines" if len(xs) > 1 else "markers", "x": xs, "name": words(name, 40), "legendgroup": name,
    }  # fmt: skip
    hover = f"{words(name)} <b>%{{y:.4g}}</b><extra></extra>"
    main = {"line": look | {"width": 2}, "marker": {"color": look["color"]}, "hovertemplate": hover}
    if not smooth:
        return [shared | main | {"y": ys}]
    raw = {"y": ys, "line": look | {"width": 1}, "opacity": 0.28, "showlegend": False, "hoverinfo": "skip"}
    return [shared | raw, shared | main | {"y": running_mean(ys, max(3, len(ys) // 25))}]


def _loss_axis(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where all values are positive and lie more than a factor of 30 apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 30:
        return axis("value (log)", **log_ticks(low / 1.2, high * 1.2, numbers.plain))
    return axis("value", rangemode="tozero" if low >= 0 else "normal")


def mixture(record: Record) -> list[Figure]:
    """Where batches were mixed of domains: how much of each, and how far the student's perplexity is above the teacher's."""
    found = record.get("mixture") or {}
    if not found:
        return []
    lags = {
        domain: [student / teacher for student, teacher in zip(values, found["teacher"][domain])]
        for domain, values in found["student"].items()
    }
    share = _domains("mixture0", "Share of the domains", found["step"], found["share"], "share of the rows")
    lag = _domains("mixture1", "Perplexity over the teacher's", found["step"], lags, "ratio on validation rows")
    return [figure for figure in (share, lag) if figure]


def _domains(key: str, title: str, steps: Sequence[Any], values: Mapping[str, Any], label: str) -> Figure | None:
    lines = {name: points(steps, line) for name, line in values.items()}
    lines = {name: line for name, line in lines.items() if line[0]}
    if not lines:
        return None
    looks = _looks(list(lines))
    traces = [trace for name, (xs, ys, _) in lines.items() for trace in _line(name, xs, ys, looks[name], False)]
    layout = {"xaxis": step_axis([x for xs, _, _ in lines.values() for x in xs]), "yaxis": axis(label, rangemode="tozero"),
              "showlegend": True, "hovermode": "x unified" if len(lines) <= 8 else "closest"}  # fmt: skip
    ends = [f"{name}: from {numbers.plain(ys[0])} to {numbers.plain(ys[-1])}." for name, (_, ys, _) in lines.items()]
    caption = "As measured every few steps; the domains in which the student lags get more."
    return Figure(key, title, " ".join([f"{title}.", *ends]), traces, layout, 300, caption)


def scores_over_time(record: Record) -> list[Figure]:
    """One small plot for each score that was followed while the student learnt."""
    made = [_score(place, *item) for place, item in enumerate((record.get("scores_over_time") or {}).items())]
    return [figure for figure in made if figure]


def _score(place: int, key: str, line: Mapping[str, Any]) -> Figure | None:
    what = measure(key)
    xs, ys, _ = points((line or {}).get("step") or [], (line or {}).get("value") or [])
    if len(xs) < 2:  # one evaluation is no course
        return None
    digits, unit, scale = numbers.decimals(ys, what.share), " %" if what.share else "", 100 if what.share else 1
    best = ys.index(max(ys) if what.better == "more" else min(ys))
    trace = {
        "type": "scatter", "mode": "lines+markers" if len(xs) <= 40 else "lines", "x": xs, "y": [y * scale for y in ys],
        "line": {"color": colour("student"), "width": 2}, "marker": {"size": 5, "color": colour("student")},
        "hovertemplate": f"%{{y:.{digits}f}}{unit}<br>step %{{x:,}}<extra></extra>",
    }  # fmt: skip
    caption = f"Best {what.text(ys[best], digits)} at step {numbers.plain(xs[best], 0)}." if what.better else ""
    ends = f"{what.label}: from {what.text(ys[0], digits)} to {what.text(ys[-1], digits)}. {caption}"
    margin = {"l": 48, "r": 12, "t": 8, "b": 44}
    layout = {"xaxis": step_axis(xs), "yaxis": axis(ticksuffix=unit), "margin": margin}
    return Figure(f"score{place}", what.label, ends, [trace], layout, 230, caption)


def step_axis(steps: Sequence[float]) -> dict[str, Any]:
    """The axis of training steps: whole numbers, also where there are few."""
    return axis(
        "step",
        unifiedhovertitle={"text": "step %{x:,}"},
        **({"dtick": 1} if steps and max(steps) - min(steps) <= 6 else {}),
    )


def points(steps: Sequence[Any], values: Sequence[Any]) -> tuple[list[float], list[float], int]:
    """The points of a line, (x, y, n): what is not finite is dropped, and of more than 600 every n-th is kept."""
    read = [(number(step), number(value)) for step, value in zip(steps, values)]
    pairs = [(step, value) for step, value in read if step is not None and value is not None and math.isfinite(value)]
    every = max(1, math.ceil(len(pairs) / MOST))
    kept = pairs[::every] + ([pairs[-1]] if pairs and (len(pairs) - 1) % every else [])
    return [step for step, _ in kept], [value for _, value in kept], every


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Centred mean over `width` points, fewer at the ends: [n] -> [n]."""
    half, sums = width // 2, [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(max(0, place - half), min(len(values), place + half + 1)) for place in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in spans]
