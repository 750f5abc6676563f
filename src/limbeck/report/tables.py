"""The table of models in the report, and what it says of the student against its baseline, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import numbers
from limbeck.report.compare import against_baseline, cost, first_of, latencies, models_of, score, scored_part
from limbeck.report.markup import Html, join, scroll, tag
from limbeck.report.numbers import Stat, decimals, milliseconds, number, rate
from limbeck.report.text import keys_of, way_name, ways_of
from limbeck.report.words import FORMATS, ROLES, Measure, is_detail, measure

Record = Mapping[str, Any]
DASH = Html('<span class="none">\u2013</span>')
_MARKS = {"better": "\u25b2 better", "worse": "\u25bc worse", "no clear difference": "\u2248 no clear difference",
          "the same": "= the same"}  # fmt: skip


def swatch(role: Any) -> Html:
    """The role's mark, the same in colour and shape as in the plots."""
    return tag("span", class_=f"swatch {role if role in ROLES else 'other'}", aria_hidden="true")


def head(what: Measure) -> Html:
    """A row's heading: name, arrow to the better side, meaning in small."""
    sign, said = {"more": "\u00a0\u2191", "less": "\u00a0\u2193"}.get(what.better), f"{what.better} is better"
    arrow = tag("span", sign, class_="arrow", role="img", title=said, aria_label=said) if sign else None
    meaning = what.meaning or None
    return join(tag("span", what.label, title=meaning), arrow, tag("small", meaning) if meaning else None)


def models(record: Record) -> list[Html | None]:
    """The table of models, and in words where the student is better and where it is worse than without its teacher."""
    columns, gaps = models_of(record), gaps_of(record)
    width, last = len(columns) + (2 if gaps else 1), tag("td") if gaps else None
    timed = "Time to answer: median; below it the 95th percentile, and samples per second"
    agreed = [key for key in keys_of(record, "agreement") if not is_detail(key)]
    groups = [
        _group(
            f"Quality on the {scored_part(record)} part",
            width,
            [_scores(columns, key, gaps) for key in keys_of(record, "scores")],
        ),
        _group("Agreement with the teacher", width, [_scores(columns, key, gaps) for key in agreed]),
        _group("Size and work", width, [_costs(columns, key, last) for key in keys_of(record, "cost")]),
        _group(timed, width, [_latencies(columns, way, last) for way in ways_of(record)]),
    ]
    if not any(groups):
        return []
    return [_findings(record, gaps), _table("Models", columns, gaps, groups), _legend(record, gaps)]


def scores(record: Record, label: str, groups: Mapping[str, Sequence[str]]) -> Html | None:
    """A table of some scores and agreements, in groups with a title each; None where no model has any of them."""
    columns, gaps = models_of(record), gaps_of(record)
    width = len(columns) + (2 if gaps else 1)
    made = []
    for title, keys in groups.items():
        found = [key for key in keys if any(score(model, key) for model in columns)]
        made.append(_group(title, width, [_scores(columns, key, gaps) for key in found]))
    return _table(label, columns, gaps, made) if any(made) else None


def gaps_of(record: Record) -> dict[str, tuple]:
    """Student against the same student alone, by score: measure, student, alone, difference."""
    return {what.key: (what, ours, theirs, gap) for what, ours, theirs, gap in against_baseline(record)}


def _table(label: str, columns: Sequence[Record], gaps: Mapping[str, tuple], groups: Sequence[Html | None]) -> Html:
    titles = [
        tag("th", _named(model), tag("small", ROLES.get(str(model.get("role")), "")), scope="col") for model in columns
    ]
    if gaps:
        titles.append(tag("th", "Student against alone", tag("small", "difference \u00b1 standard error"), scope="col"))
    header = tag("thead", tag("tr", tag("td", class_="corner"), titles))
    kind = "models few" if len(titles) < 3 else "models"
    return scroll(label, tag("table", header, groups, class_=kind, style=f"--columns:{len(titles)}"))


def _named(model: Record) -> Html:
    """The mark and the name; a long name may break, but not between the mark and its first word."""
    first, _, rest = str(model.get("name")).partition(" ")
    return join(tag("span", swatch(model.get("role")), first, class_="whole"), f" {rest}" if rest else None)


def _group(title: str, width: int, rows: list[Html]) -> Html | None:
    head = tag("tr", tag("th", title, colspan=width, scope="rowgroup"), class_="group")
    return tag("tbody", head, rows) if rows else None


def _scores(columns: Sequence[Record], key: str, gaps: Mapping[str, tuple]) -> Html:
    what, found = measure(key), [score(model, key) for model in columns]
    digits = decimals([each.mean for each in found if each], what.share)
    best = _best(columns, found, what, gaps.get(key))
    cells = [
        tag("td", DASH if each is None else tag("b" if place == best else "span", _spread(what.spread(each, digits))),
            class_="best" if place == best else None)
        for place, each in enumerate(found)
    ]  # fmt: skip
    if key in gaps:
        gap = gaps[key][3]
        word = gap.word(what)
        note = _MARKS.get(word, "") + (", one seed" if gap.clear is None and word else "")
        step = _spread(what.step(gap.mean, gap.error, digits))
        cells.append(tag("td", step, tag("small", note), class_=f"gap {word[:6]}", title=gap.basis or None))
    elif gaps:
        cells.append(tag("td", DASH))
    return tag("tr", tag("th", head(what), scope="row"), cells)


def _spread(written: str) -> Html:
    """A value and its spread, or its unit alone, which goes below it where the window is narrow."""
    value, mark, spread = written.partition(" \u00b1 " if " \u00b1 " in written else " points")
    return join(value, tag("span", mark + spread, class_="pm")) if mark else join(value)


def _best(columns: Sequence[Record], found: Sequence[Stat | None], what: Measure, gap: tuple | None) -> int | None:
    """Which of the small models is best, if one is: not where the difference is unclear or the direction unknown."""
    small = [place for place, model in enumerate(columns) if model.get("role") != "teacher" and found[place]]
    if not what.better or len(small) < 2 or (gap and gap[3].word(what) not in ("better", "worse")):
        return None
    side = 1 if what.better == "more" else -1
    return max(small, key=lambda place: side * found[place].mean)  # type: ignore[union-attr]


def _costs(columns: Sequence[Record], key: str, last: Html | None) -> Html:
    teacher = cost(next((model for model in columns if model.get("role") == "teacher"), None), key)
    cells = []
    for model in columns:
        value = cost(model, key)
        ratio = teacher / value if teacher and value and model.get("role") != "teacher" else 1
        note = f"{numbers.fraction(ratio)} of the teacher" if ratio > 1.02 else None
        cells.append(tag("td", FORMATS[key](value) if value else DASH, note and tag("small", note)))
    return tag("tr", tag("th", head(measure(key)), scope="row"), cells, last)


def _latencies(columns: Sequence[Record], way: tuple[str, int], last: Html | None) -> Html:
    name = way_name(way)
    what = Measure("", name[:1].upper() + name[1:], "", "less")
    cells = [tag("td", timing(latencies(model).get(way))) for model in columns]
    return tag("tr", tag("th", head(what), scope="row"), cells, last)


def timing(row: Record | None) -> Html:
    if not row:
        return DASH
    high, flow = number(row.get("p95_ms")), number(row.get("throughput"))
    parts = [f"p95 {milliseconds(high)}" if high else "", rate(flow) if flow else ""]
    return join(milliseconds(number(row.get("p50_ms"))), tag("small", [tag("span", part) for part in parts if part]))


def _findings(record: Record, gaps: Mapping[str, tuple]) -> Html | None:
    """Where the student beats its baseline, where it does not: both as plainly."""
    said: dict[str, list[str]] = {"worse": [], "better": [], "no clear difference": []}
    for key in keys_of(record, "scores"):
        if key in gaps:
            what, ours, theirs, gap = gaps[key]
            digits = decimals([ours.mean, theirs.mean], what.share)
            word = "no clear difference" if gap.word(what) == "the same" else gap.word(what)
            pair = f"{what.name} ({what.text(ours.mean, digits)} against {what.text(theirs.mean, digits)})"
            said.get(word, []).append(what.name if word == "no clear difference" else pair)
    one = ", by one seed" if gaps and all(len(ours.values) == 1 for _, ours, _, _ in gaps.values()) else ""
    starts = {"worse": f"Worse than the same student trained alone{one}: ",
              "better": f"Better than the same student trained alone{one}: ",
              "no clear difference": f"No clear difference to the same student trained alone{one}: "}  # fmt: skip
    lines = [tag("p", tag("b", starts[word]), "; ".join(names), ".", class_=f"finding {word[:6]}")
             for word, names in said.items() if names]  # fmt: skip
    return join(lines) if lines else None


def _legend(record: Record, gaps: Mapping[str, tuple]) -> Html:
    stats = [score(model, key) for model in models_of(record) for key in keys_of(record, "scores")]
    seeds = max((len(each.values) for each in stats if each), default=0)
    lines = []
    if any(each and each.std is not None for each in stats):
        over = f" over {seeds} seeds" if seeds > 1 else " over seeds"
        lines.append(f"Mean \u00b1 standard deviation{over}.")
    elif seeds:
        lines.append("One seed: how much the scores would vary from one training to the next is not known.")
    if gaps:
        judged = list(dict.fromkeys(gap.basis for *_, gap in gaps.values() if gap.clear is not None))
        basis = f" ({'; '.join(judged)})" if judged else ""
        lines.append(f"Marked: the best of the small models, where the difference is more than chance{basis}.")
        if any(gap.clear is None for *_, gap in gaps.values()):
            lines.append("With one seed, the other differences may be chance.")
    elif first_of(record, "teacher") and first_of(record, "student") and record.get("learns alone", True):
        lines.append("The same student was not trained alone, so what distillation added is not known.")
    return tag("p", " ".join(lines), class_="note")
