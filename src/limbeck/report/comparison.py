"""The page of a comparison, its table on the terminal, and its lines as CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import numbers
from limbeck.report.build import figures_of, frame, header_of
from limbeck.report.figures import Figure, axis, colour, words
from limbeck.report.markup import Html, facts, grid, join, section, tag
from limbeck.report.numbers import decimals, plain, stat
from limbeck.report.standings import blocks_of, called, ranking, reference, verdict
from limbeck.report.words import Measure, measure

Record = dict[str, Any]


def table(record: Mapping[str, Any]) -> str:
    """A CSV with a line for each recipe and data set."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(["data", "recipe", "measure", "mean", "std", "mean_rank", "difference", "half_95", "p_holm", "steps",
                    "ms_per_step", "bytes", "diverged", "values"])  # fmt: skip
    for line in ranking(record):
        for name, each in line["sets"].items():
            found, gap = stat(each["values"]), each["gap"] or {}
            write.writerow([name, line["label"], record["sets"][name]["measure"], found and f"{found.mean:.6g}",
                            "" if not found or found.std is None else f"{found.std:.4g}", f"{line['rank']:.3f}",
                            _short(gap.get("mean")), _short(gap.get("half")), _short(gap.get("holm")), each["steps"],
                            f"{each['ms_per_step']:.4g}", int(each["bytes"]), len(each["errors"]),
                            " ".join(f"{value:.6g}" for value in each["values"])])  # fmt: skip
    return out.getvalue()


def _short(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def gap_text(gap: Mapping[str, Any] | None, what: Measure, digits: int | None = None) -> str:
    """+1.2 ± 0.4 points: the mean difference and half of its 95 % interval."""
    if gap is None or math.isnan(gap["mean"]):
        return "\u2013"
    factor, unit = (100, " points") if what.share else (1, "")
    digits = decimals([factor * gap["mean"], factor * (gap["half"] or 0)]) if digits is None else digits
    half = "" if gap["half"] is None else f" \u00b1 {plain(factor * gap['half'], digits)}"
    sign = "+" if gap["mean"] > 0 else ""
    return f"{sign}{plain(factor * gap['mean'], digits)}{half}{unit}"


def _cells(line: Mapping[str, Any], name: str, record: Mapping[str, Any]) -> list[str]:
    """Score, difference, how likely by chance, milliseconds a step, memory, steps."""
    each, what = line["sets"][name], measure(record["sets"][name]["measure"])
    found, gap = stat(each["values"]), each["gap"]
    likely = (
        ""
        if gap is None
        else "\u2013"
        if gap["holm"] is None
        else "< 0.001"
        if gap["holm"] < 0.001
        else f"{gap['holm']:.3f}"
    )
    shown = what.spread(found) if found else "\u2013"
    return [shown + (f" ({len(each['errors'])} diverged)" if each["errors"] else ""),
            "" if gap is None else gap_text(gap, what), likely, plain(each["ms_per_step"]), numbers.size(each["bytes"]),
            f"{each['steps']:,}"]  # fmt: skip


def _heads(record: Mapping[str, Any], name: str) -> list[str]:
    what = measure(record["sets"][name]["measure"])
    return [what.label, f"against {called(reference(record))}", "p", "ms a step", "memory", "steps"]


def show(record: Mapping[str, Any]) -> None:
    """Print a table for each data set, and the sentence."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, lines = Console(), ranking(record)
    for name in record["sets"]:
        printed = Table(title=name if len(record["sets"]) > 1 else None, box=None, pad_edge=False, header_style="bold",
                        padding=(0, 2, 0, 0), title_justify="left")  # fmt: skip
        for head in ("recipe", "mean rank", *_heads(record, name)):
            printed.add_column(head, justify="left" if head == "recipe" else "right", overflow="fold")
        for line in lines:
            printed.add_row(Text(line["label"]), f"{line['rank']:.1f}", *_cells(line, name, record))
        console.print(printed)
    console.print(Text(verdict(record)))


def page(record: Mapping[str, Any]) -> str:
    """The page as text; it holds plotly's bundle and loads nothing."""
    from limbeck import __version__

    kept, figures = parts(record)
    config, title = record.get("config") or {}, str(record.get("title") or "A comparison")
    line = ["comparison", f"{config.get('seeds')} seeds", config.get("student")]
    return frame(title, header_of(title, verdict(record), line, kept), kept, figures, __version__)


def parts(record: Mapping[str, Any]) -> tuple[list[tuple[str, str, Html]], list[Figure]]:
    """The sections of the page (key, short name, content), and the figures that are in them."""
    lines, config = ranking(record), record.get("config") or {}
    figures = [_figure(record, name, lines) for name in record["sets"]]
    sections = [("ranking", "Ranking", section("ranking", "Ranking", _ranks(record, lines), figures_of(figures)))]
    for name in record["sets"]:
        rows = [[line["label"], *_cells(line, name, record)] for line in lines]
        made = section(
            f"on-{name}", f"On {name}", grid(name, ["Recipe", *_heads(record, name)], rows), _note(record, name)
        )
        sections.append((f"on-{name}", name, made))
    sections.append(("tuning", "Tuning", section("tuning", "What each was trained with", *_tuning(record, lines))))
    pairs = [("Student", config.get("student")), ("Teacher", config.get("teacher")), ("Seeds", config.get("seeds")),
             ("Ways tried of each", config.get("tune")),
             *[(key.replace("_", " "), value) for key, value in (config.get("options") or {}).items()]]  # fmt: skip
    sections.append(("again", "Terms", section("again", "The terms", facts(pairs))))
    return [(key, name, made) for key, name, made in sections if made], figures


def _ranks(record: Mapping[str, Any], lines: Sequence[Record]) -> Html | None:
    several = len(record["sets"]) > 1
    rows = []
    for line in lines:
        spread = statistics.stdev(line["ranks"]) if len(line["ranks"]) > 1 else None
        cells = [f"{line['rank']:.2f}" + ("" if spread is None else f" \u00b1 {spread:.2f}")]
        cells += [_cells(line, name, record)[0] for name in record["sets"]]
        rows.append([line["label"], *cells])
    names = [
        measure(found["measure"]).label + (f", {name}" if several else "") for name, found in record["sets"].items()
    ]
    note = (
        f"Mean rank over {len(lines[0]['ranks'])} {blocks_of(record)}, 1 the best, \u00b1 its standard deviation; scores are "
        "means \u00b1 standard deviations over seeds."
    )
    return join(grid("Ranking", ["Recipe", "Mean rank", *names], rows), tag("p", note, class_="note"))


def _note(record: Mapping[str, Any], name: str) -> Html:
    found = record["sets"][name]
    what, base = measure(found["measure"]), called(reference(record))
    teacher = (found.get("teacher") or {}).get(found["measure"])
    reads = found.get("reads") or {}
    said = [
        f"Scores on the {found['part']} part"
        + (f"; the teacher has {what.text(teacher)}." if teacher is not None else "."),
        f"Differences to {base} are paired over seeds, \u00b1 half of their 95 % interval (Student's t); p is corrected for "
        "the number of recipes (Holm).",
        "Time is that of a step without the teacher, memory what one holds (weights, gradients, optimizer, activations).",
    ]
    if reads.get("passes"):
        said.append(
            f"The teacher read {reads['passes']:,} batches in {numbers.duration(reads['seconds'])} for all; asked it was "
            f"{reads['asked']:,} times."
        )
    return tag("p", " ".join(said), class_="note")


def _tuning(record: Mapping[str, Any], lines: Sequence[Record]) -> list[Html | None]:
    made = []
    for name, found in record["sets"].items():
        rows = []
        for line in lines:
            row = found["rows"][line["label"]]
            tried = [each["valid"] for each in row["tried"] if each["valid"] is not None]
            chosen = ", ".join(f"{key}={value}" for key, value in row["chosen"].items()) or "its defaults"
            what = measure(found["measure"])
            spread = f"{what.text(min(tried))} to {what.text(max(tried))}" if tried else "\u2013"
            rows.append([line["label"], chosen, f"{len(row['tried'])}" if row["tried"] else "1", spread])
        made.append(grid(f"Tuning on {name}", [name, "Chosen", "Ways tried", "On validation"], rows, words=(1,)))
    return made


def _figure(record: Mapping[str, Any], name: str, lines: Sequence[Record]) -> Figure:
    """Differences to the reference with their intervals, a line for each recipe."""
    what, base = measure(record["sets"][name]["measure"]), reference(record)
    factor = 100 if what.share else 1
    shown = [
        line
        for line in reversed(lines)
        if line["sets"][name]["gap"] and not math.isnan(line["sets"][name]["gap"]["mean"])
    ]
    found = [line["sets"][name]["gap"] for line in shown]
    traces = [{
        "type": "scatter", "mode": "markers", "x": [factor * gap["mean"] for gap in found],
        "y": [words(line["label"], 30) for line in shown],
        "error_x": {"type": "data", "array": [factor * (gap["half"] or 0) for gap in found], "thickness": 1.5, "width": 4},
        "marker": {"size": 9, "color": [colour("student") if gap["clear"] else colour("baseline") for gap in found]},
        "text": [gap_text(gap, what) for gap in found], "hovertemplate": "%{y}: %{text}<extra></extra>",
    }]  # fmt: skip
    zero = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1,
            "line": {"color": "var(--rule)", "width": 1, "dash": "dot"}}  # fmt: skip
    title = f"{what.label}: difference to {called(base)}" + (f" on {name}" if len(record["sets"]) > 1 else "")
    layout = {"xaxis": axis("points" if what.share else what.name), "yaxis": axis("", type="category"), "shapes": [zero],
              "margin": {"l": 120, "r": 16, "t": 12, "b": 48}}  # fmt: skip
    better = {"more": "Right is better.", "less": "Left is better."}.get(what.better, "")
    caption = (
        f"Mean over seeds and its 95 % interval. Coloured: not explained by chance (p < 0.05, Holm). {better}".strip()
    )
    return Figure(f"gaps-{list(record['sets']).index(name)}", title, f"{title}: " + "; ".join(
        f"{line['label']} {gap_text(gap, what)}" for line, gap in zip(shown, found)), traces, layout,
        height=max(180, 60 + 34 * len(shown)), caption=caption)  # fmt: skip
