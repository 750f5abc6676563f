"""The plots of how far a model can be trusted: reliability, and where student and teacher differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.compare import models_of, score
from limbeck.report.figures import SYMBOLS, Figure, axis, colour, words
from limbeck.report.numbers import number
from limbeck.report.words import items_of, measure

Record = Mapping[str, Any]
LARGE = 30  # classes above which a heat map cannot be read any more
WRITTEN = 16  # classes up to which the counts stand in the cells


def reliability(record: Record) -> list[Figure]:
    """For each model: how often it is right where it says how sure it is, and for how many samples it says so."""
    made = [_reliability(place, model, items_of(record)) for place, model in enumerate(models_of(record))]
    return [figure for figure in made if figure]


def _reliability(place: int, model: Record, items: str) -> Figure | None:
    needed = ("count", "lower", "upper", "confidence", "accuracy")
    bins = [each for each in model.get("reliability") or [] if all(number(each.get(key)) is not None for key in needed)]
    bins = [each for each in bins if each["count"]]
    if not bins:
        return None
    role, total = str(model.get("role")), sum(each["count"] for each in bins)
    said = [[100 * each["lower"], 100 * each["upper"], each["count"], 100 * each["count"] / total] for each in bins]
    bin_line = (
        "sure to %{customdata[0]:.0f}\u2013%{customdata[1]:.0f} %: %{customdata[2]:,} "
        f"{items} (%{{customdata[3]:.1f}} %)"
    )
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "hoverinfo": "skip",
         "line": {"color": "var(--ink-soft)", "width": 1, "dash": "dot"}},
        {"type": "scatter", "mode": "lines+markers", "customdata": said, "cliponaxis": False,
         "x": [100 * each["confidence"] for each in bins], "y": [100 * each["accuracy"] for each in bins],
         "line": {"color": colour(role), "width": 2},
         "marker": {"size": 8, "symbol": SYMBOLS.get(role, "x"), "color": colour(role)},
         "hovertemplate": bin_line + "<br>stated %{x:.1f} %, right %{y:.1f} %<extra></extra>"},
        {"type": "bar", "customdata": said, "yaxis": "y2", "marker": {"color": colour(role)}, "opacity": 0.75,
         "x": [(low + high) / 2 for low, high, *_ in said], "width": [0.9 * (high - low) for low, high, *_ in said],
         "y": [part for *_, part in said], "hovertemplate": bin_line + "<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "xaxis": axis("stated confidence (%)", range=[0, 101], dtick=25, anchor="y2"),
        "yaxis": axis("right (%)", range=[0, 101], dtick=25, domain=[0.36, 1]),
        "yaxis2": axis(f"{items} (%)", domain=[0, 0.24], nticks=4, rangemode="tozero"),
        "margin": {"l": 52, "r": 14, "t": 10, "b": 48},
    }
    found = score(model, "ece")
    caption = f"Calibration error {measure('ece').spread(found)}." if found else ""
    alt = f"Reliability of {model.get('name')} in {len(bins)} bins over {total:,} {items}. {caption}"
    return Figure(f"reliability{place}", str(model.get("name")), alt, traces, layout, 380, caption, role=role)


def counts(record: Record) -> tuple[list[list[int]], list[str]]:
    """The matrix (rows: student, columns: teacher) and a label for each class; empty where there is none."""
    given = record.get("confusion") or {}
    matrix, labels = given.get("matrix") or [], list(map(str, given.get("labels") or []))
    return matrix, labels[: len(matrix)] + [str(place) for place in range(len(labels), len(matrix))]


def confusion_pairs(record: Record) -> list[tuple[str, str, int]]:
    """(teacher's class, student's class, how often), the most frequent first; where both agree is left out."""
    matrix, labels = counts(record)
    pairs = [
        (labels[teacher], labels[student], int(count))
        for student, row in enumerate(matrix)
        for teacher, count in enumerate(row)
        if student != teacher and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def confusion(record: Record) -> Figure | None:
    """Student against teacher as a heat map of counts; None above 30 classes, where the pairs say more."""
    matrix, labels = counts(record)
    if not matrix or len(matrix) > LARGE:
        return None
    columns = [sum(row[place] for row in matrix) or 1 for place in range(len(matrix))]
    said = [
        [[words(labels[place]), words(label), count, 100 * count / columns[place]] for place, count in enumerate(row)]
        for label, row in zip(labels, matrix)
    ]
    places, short = list(range(len(matrix))), [words(label, 14) for label in labels]
    trace = {
        "type": "heatmap", "x": places, "y": places, "z": [[count**0.5 for count in row] for row in matrix], "zmin": 0,
        "text": [[str(count) if count else "" for count in row] for row in matrix], "textfont": {"size": 12},
        "texttemplate": "%{text}" if len(matrix) <= WRITTEN else "", "customdata": said, "showscale": False,
        "colorscale": [[0, "var(--heat0)"], [0.5, "var(--heat1)"], [1, "var(--heat2)"]], "xgap": 1, "ygap": 1,
        "hovertemplate": "teacher: %{customdata[0]}<br>student: %{customdata[1]}<br>%{customdata[2]:,} samples, "
                         "%{customdata[3]:.1f} % of this answer of the teacher<extra></extra>",
    }  # fmt: skip
    ticks = {"tickvals": places, "ticktext": short, "showgrid": False, "ticks": "", "showline": False}
    layout = {
        "xaxis": axis("teacher says", **ticks, tickangle=0 if sum(map(len, short)) < 30 else -45),
        "yaxis": axis("student says", **ticks, autorange="reversed"),
        "margin": {"l": 60, "r": 10, "t": 26, "b": 60},
    }
    alt = f"Counts of the student's answers against the teacher's, {len(matrix)} classes."
    caption = "Stronger colour: more samples (by square root, so that rare disagreements are seen)."
    return Figure("confusion", "", alt, [trace], layout, caption=caption, square=True)
