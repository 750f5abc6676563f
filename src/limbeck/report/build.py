"""The report of a run as one HTML file that needs no network."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from limbeck.disk import write_text, writing
from limbeck.report import curves, details, fidelity, language, monitor, tables, trade, trust
from limbeck.report.compare import scored_part
from limbeck.report.figures import Figure
from limbeck.report.markup import Html, grid, join, section, tag
from limbeck.report.numbers import share
from limbeck.report.verdict import verdict
from limbeck.report.words import items_of

# nothing may be loaded from anywhere, whatever a name in the record says
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="12" cy="20" r="9" fill="#0072B2"/>'
    '<path d="M12 12V6l16 9" fill="none" stroke="#0072B2" stroke-width="4" stroke-linejoin="round"/>'
    '<circle cx="28" cy="25" r="3" fill="#D55E00"/></svg>'
)


def render(record: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report of a run and give its path.

    `record`: what report.json holds; what is missing leaves its section out. `path`: the file, or a folder, which then
    gets report.html. The page holds plotly's own bundle (4.8 MB) and loads nothing.
    """
    target = Path(path)
    if target.is_dir():
        target = target / "report.html"
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page(record))
    return target


def page(record: Mapping[str, Any]) -> str:
    """The whole page as text."""
    sections, figures = _sections(record)
    title = str(record.get("title") or "A distillation run")
    return frame(title, _header(record, title, sections), sections, figures, record.get("limbeck"))


def frame(title: str, header: Html, sections: list[tuple[str, str, Html]], figures: list[Figure], version: Any) -> str:
    """A page of the house from its header, its sections (key, short name, content) and the figures that are in them."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title} \u2013 Limbeck report"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:image/svg+xml," + urllib.parse.quote(_ICON)),
        tag("style", _asset("style.css")),
    )
    first = sections[0][0] if sections else None
    skip = tag("a", "Skip to the models", href="#models", class_="skip") if first == "models" else None
    main = tag("main", header, [content for _, _, content in sections], _footer(version))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", skip, main, _scripts(figures)), lang="en")


def _header(record: Mapping[str, Any], title: str, sections: list[tuple[str, str, Html]]) -> Html:
    recipe, data = record.get("recipe") or {}, record.get("data") or {}
    created = str(record.get("created") or "")[:16].replace("T", " ")
    line = [recipe.get("name"), record.get("task"), data.get("name"), created]
    said = str(record.get("verdict") or verdict(record))
    return header_of(title, said, line, sections, details.all_warnings(record))


def header_of(title: str, said: str, line: Sequence[Any], sections: list[tuple[str, str, Html]],
              known: Sequence[str] = ()) -> Html:  # fmt: skip
    """Title, a line over it, what is said in one sentence, links to the sections; `known`: warnings."""
    count = f"{len(known)} warnings" if len(known) > 1 else "1 warning"
    links = [tag("a", name, href=f"#{key}") for key, name, _ in sections]
    return tag(
        "header",
        tag("p", [tag("span", part) for part in line if part], class_="over") if any(line) else None,
        tag("h1", title),
        tag("p", _curly(said), class_="verdict"),
        tag("p", tag("a", count, href="#warnings"), " about this run", class_="alert") if known else None,
        tag("nav", links, aria_label="Sections") if len(links) > 1 else None,
        tag("noscript", tag("p", "The plots need JavaScript; the tables do not.", class_="note")),
    )


def _curly(sentence: str) -> str:
    """With curved apostrophes: in large type a straight one shows."""
    return re.sub(r"(?<=\w)'(?=\w)", "\u2019", sentence)


def _sections(record: Mapping[str, Any]) -> tuple[list[tuple[str, str, Html]], list[Figure]]:
    """What the record has to show: (key, short name, section) in reading order, and the figures in them."""
    sizes, losses, times = trade.trade_offs(record), curves.curves(record), curves.scores_over_time(record)
    mixed = curves.mixture(record)
    watched = monitor.figures(record)
    bins, heat = trust.reliability(record), trust.confusion(record)
    bins_note = ("On the dotted line a model is right as often as it says it is; below it, it is too sure of itself. "
                  f"Bars: share of the {items_of(record)} with that confidence.")  # fmt: skip
    listed = [
        ("models", "Models", "Models", tables.models(record)),
        ("size", "Size and score", "Size against score", [figures_of(sizes)]),
        ("curves", "Learning", "How the student learnt",
         [figures_of(losses), figures_of(mixed), figures_of(times, small=True)]),
        ("monitor", "Teacher hacking", "Does it follow its teacher past the truth?",
         [*monitor.monitor(record), figures_of(watched)]),
        ("reliability", "Calibration", "Can its confidence be trusted?",
         [figures_of(bins, small=True), tag("p", bins_note, class_="note") if bins else None]),
        ("fidelity", "Fidelity", "Is it like its teacher, or only as good?", fidelity.fidelity(record)),
        ("samples", "Answers", "What they write", language.generated(record)),
        ("confusion", "Disagreement", "Where student and teacher differ", _confusion(record, heat)),
        ("exports", "Exports", "Files to deploy", details.exports(record)),
        ("data", "Data", "Data", details.data(record)),
        ("dry-run", "Dry run", "What the dry run foresaw", details.dry_run(record)),
        ("again", "Run it again", "What was run, and how to run it again", details.again(record)),
    ]  # fmt: skip
    sections = [(key, name, made) for key, name, title, content in listed if (made := section(key, title, *content))]
    return sections, [*sizes, *losses, *mixed, *times, *watched, *bins, *([heat] if heat else [])]


def figures_of(figures: list[Figure], small: bool = False) -> Html | None:
    if not figures:
        return None
    shape = "small" if small else "one" if len(figures) == 1 else "two"
    return tag("div", [_figure(figure) for figure in figures], class_=f"figures {shape}")


def _figure(figure: Figure) -> Html:
    mark = tables.swatch(figure.role) if figure.role else None
    title = tag("h3", mark, figure.title) if figure.title else None
    style = None if figure.square else f"height:{figure.height}px"
    kind = "plot square" if figure.square else "plot"
    plot = tag("div", class_=kind, id=f"plot-{figure.key}", style=style, role="group", aria_label=figure.alt)
    return tag("figure", title, plot, tag("figcaption", figure.caption) if figure.caption else None)


def _confusion(record: Mapping[str, Any], heat: Figure | None) -> list[Html | None]:
    """How often both agree, in words; the heat map or, for many classes, more of the pairs."""
    pairs, matrix = trust.confusion_pairs(record), (record.get("confusion") or {}).get("matrix") or []
    total = sum(map(sum, matrix))
    if not total:
        return []
    same = sum(row[place] for place, row in enumerate(matrix) if place < len(row))
    said = f"They give the same answer for {same:,} of {total:,} {scored_part(record)} samples ({share(same / total)})."
    shown = pairs[: 5 if heat else 20]
    rows = [[teacher, student, f"{count:,}"] for teacher, student, count in shown]
    table = grid("Most frequent disagreements", ["Teacher says", "Student says", "Samples"], rows, words=(1,))
    beside = tag("div", tag("h3", "Most frequent disagreements"), table) if table else None
    wide = tag("div", _figure(heat) if heat else None, beside, class_="figures beside" if heat else None)
    return [tag("p", said), wide]


def _footer(version: Any) -> Html:
    written = f" {version}" if version else ""
    return tag("footer", tag("p", f"Written by Limbeck{written}. This page is complete: it loads nothing."))


def _scripts(figures: list[Figure]) -> Html:
    """Plotly's bundle once, the figures as data, and the script that draws them."""
    named = {f"plot-{figure.key}": figure.spec() for figure in figures}
    specs = json.dumps(named, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = tag("script", Html(specs.replace("<", "\\u003c")), type="application/json", id="figures")
    return join(_plotly() if figures else None, data, tag("script", _asset("page.js")))


def _plotly() -> Html:
    from plotly.offline import get_plotlyjs

    return tag("script", Html(get_plotlyjs()))


def _asset(name: str) -> Html:
    return Html(resources.files("limbeck.report").joinpath(name).read_text(encoding="utf-8"))
