"""The page of a search for a pipeline: the winner beside what it must beat, what mattered, every trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import numbers
from limbeck.report.build import figures_of, frame, header_of
from limbeck.report.comparison import gap_text, parts
from limbeck.report.comparison import show as show_comparison
from limbeck.report.figures import Figure, axis, colour
from limbeck.report.markup import Html, facts, grid, join, section, tag
from limbeck.report.standings import paired, values
from limbeck.report.words import measure

Record = dict[str, Any]


def written(pipeline: Mapping[str, Any]) -> str:
    """A pipeline as one writes it: kd(soft=0.9), settings, and how its learning rate differs."""
    words = ", ".join(f"{key}={_short(value)}" for key, value in pipeline["arguments"].items())
    text = f"{pipeline['recipe']}({words})" if words else pipeline["recipe"]
    settings = [f"{key}={_short(value)}" for key, value in (pipeline.get("settings") or {}).items()]
    if (factor := pipeline.get("factor", 1.0)) != 1:
        settings.append(f"at {_short(factor)} times the run's learning rate")
    return " ".join([text, *settings])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verdict(record: Mapping[str, Any]) -> str:
    """Who won, and by how much over plain KD, the recommendation and the student alone, on the test part."""
    (found,) = record["finals"]["sets"].values()
    what, told = measure(found["measure"]), []
    for label, name in (("kd", "the best KD"), ("recommended", "what was recommended"), ("alone", "the student alone")):
        if label in found["rows"]:
            told.append(f"{gap_text(paired(values(found, 'best'), values(found, label)), what)} against {name}")
    count = len(record["trials"])
    best = record["best"]["recipe"]
    return (
        f"The best of {count} trials is one of {best}: {what.label.lower()} {', '.join(told)} ({found['part']} part)."
    )


def counts(record: Mapping[str, Any]) -> str:
    """How many trials came to which end, and what the teacher was spared."""
    ends: dict[str, int] = {}
    for trial in record["trials"]:
        ends[trial["state"]] = ends.get(trial["state"], 0) + 1
    names = {"complete": "complete", "pruned": "ended early", "fail": "failed"}
    told = ", ".join(f"{ends[state]} {name}" for state, name in names.items() if state in ends)
    errors = [trial["error"] for trial in record["trials"] if trial["error"]]
    told += f" (the first of them: {errors[0]})" if errors else ""
    reads = record["teacher_reads"]
    spared = (
        f"; the teacher read {reads['read']:,} of {reads['asked']:,} samples it was asked for" if reads["asked"] else ""
    )
    return f"{len(record['trials'])} trials: {told}{spared}."


def show(record: Mapping[str, Any]) -> None:
    """Print the recommendation, the counts, the last table, what mattered, and the sentence."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(f"Recommended: {written(record['recommended'])}"))
    for reason in record["recommended"]["reasons"]:
        console.print(Text(f"  {reason}"))
    console.print(Text(counts(record)))
    for name, shares in record["mattered"].items():
        told = ", ".join(f"{key} {100 * share:.0f} %" for key, share in list(shares.items())[:5])
        console.print(Text(f"What mattered in {name}: {told}."))
    show_comparison(record["finals"])
    console.print(Text(f"Found: {written(record['best'])}"))
    console.print(Text(verdict(record)))


def page(record: Mapping[str, Any]) -> str:
    """The page as text; it holds plotly's bundle and loads nothing."""
    from limbeck import __version__

    kept, figures = parts(record["finals"])
    kept = [(key, name, made) for key, name, made in kept if key not in ("tuning", "again")]
    what = measure(record["measure"])
    told = tag("ul", [tag("li", reason) for reason in record["recommended"]["reasons"]])
    chosen = facts([("Recommended", written(record["recommended"])), ("Found", written(record["best"])),
                    ("On validation", what.text(record["best"]["valid"]))])  # fmt: skip
    first = section("pipeline", "The pipeline", chosen, told)
    curve = _curve(record, what)
    mattered = [_shares(name, shares) for name, shares in record["mattered"].items()]
    note = (
        "The share of how trials differ that goes with each choice (functional analysis of variance over a forest of trees), "
        "of complete trials alone."
    )
    some = [join(*mattered), tag("p", note, class_="note")] if mattered else [
        tag("p", "Too few trials came to their end to say what mattered: ten are needed.", class_="note")]  # fmt: skip
    rows = [[str(trial["trial"]), trial["state"], "" if trial["valid"] is None else what.text(trial["valid"]),
             numbers.duration(trial["seconds"] or 0.0), ", ".join(f"{k}={_short(v)}" for k, v in trial["with"].items())]
            for trial in record["trials"]]  # fmt: skip
    made = [
        ("pipeline", "Pipeline", first), *kept,
        ("mattered", "What mattered", section("mattered", "What mattered", *some)),
        ("trials", "Trials", section("trials", "Trials", figures_of([curve]), tag("p", counts(record), class_="note"),
                                     grid("Trials", ["Trial", "End", what.label, "Time", "With"], rows, words=(1, 4)))),
        ("again", "Terms", section("again", "The terms", facts([(key, str(value)) for key, value in
                                                               {**record["features"], **record["config"]}.items()]))),
    ]  # fmt: skip
    sections: list[tuple[str, str, Html]] = [(key, name, content) for key, name, content in made if content]
    title = str(record["title"])
    line = ["search", f"{len(record['trials'])} trials", numbers.duration(record["seconds"])]
    return frame(title, header_of(title, verdict(record), line, sections), sections, [*figures, curve], __version__)


def _shares(name: str, shares: Mapping[str, float]) -> Html | None:
    rows = [[key, f"{100 * share:.0f} %"] for key, share in shares.items()]
    return join(tag("h3", name.capitalize()), grid(name, ["Choice", "Share"], rows))


def _curve(record: Mapping[str, Any], what: Any) -> Figure:
    """Every complete trial, and the best so far."""
    done = [trial for trial in record["trials"] if trial["valid"] is not None and trial["state"] == "complete"]
    direction = max if what.better == "more" else min
    best: list[float] = []
    for trial in done:
        best.append(direction([*best[-1:], trial["valid"]]))
    numbers_: Sequence[int] = [trial["trial"] for trial in done]
    traces = [
        {"type": "scatter", "mode": "markers", "name": "a trial", "x": numbers_, "y": [trial["valid"] for trial in done],
         "text": [trial["with"]["recipe"] for trial in done], "marker": {"color": colour("student"), "size": 7}},
        {"type": "scatter", "mode": "lines", "name": "the best so far", "x": numbers_, "y": best,
         "line": {"color": colour("teacher"), "shape": "hv"}},
    ]  # fmt: skip
    top = what.text(best[-1] if best else math.nan)
    alt = f"{what.label} on validation of {len(done)} complete trials; the best has {top}."
    return Figure("trials", "", alt, traces, {"xaxis": axis("trial"), "yaxis": axis(what.label)}, height=320)
