"""The parts of the report about everything but the models: exports, data, what was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from limbeck.report import language, numbers
from limbeck.report.compare import models_of, way_of
from limbeck.report.markup import Html, code, facts, grid, join, tag
from limbeck.report.numbers import number, plain, positive, stat
from limbeck.report.tables import DASH, timing
from limbeck.report.text import way_name
from limbeck.report.words import measure

Record = Mapping[str, Any]
FORMATS = {"onnx": "ONNX", "onnx-int8": "ONNX int8"}


def exports(record: Record) -> list[Html | None]:
    """The files to deploy: how large, how exact, how good, how fast."""
    rows, listed = [], [each for each in record.get("exports") or [] if isinstance(each, Mapping)]
    scores = [(name, given) for each in listed for name, given in (each.get("scores") or {}).items()]
    names = list(dict.fromkeys(name for name, given in scores if stat(given)))[:2]
    timed = any(_timings(each) for each in listed)
    for each in listed:
        found = {name: stat((each.get("scores") or {}).get(name)) for name in names}
        shown = [measure(name).spread(one) if one else DASH for name, one in found.items()]
        ways = [join(timing(row), tag("small", way_name(way_of(row)))) for row in _timings(each)]
        name = PurePath(str(each.get("file") or "")).name  # where the run lies on this machine is nobody's business
        title = join(
            FORMATS.get(str(each.get("format")), each.get("format")), tag("small", tag("code", name)) if name else None
        )
        rows.append([title, numbers.size(number(each.get("bytes"))), plain(number(each.get("max_difference"))), *shown,
                     *([join(ways) if ways else DASH] if timed else [])])  # fmt: skip
    scored = [measure(name).label for name in names]
    heads = ["File", "Bytes", "Largest difference", *scored, *(["Median latency"] if timed else [])]
    note = "Largest difference: of any output (logit or value) from what the student itself gives for the same input."
    return [table, tag("p", note, class_="note")] if (table := grid("Exports", heads, rows)) else []


def _timings(export: Record) -> list[Record]:
    given = export.get("latency") or []
    return [row for row in ([given] if isinstance(given, Mapping) else given) if positive(row.get("p50_ms"))]


def data(record: Record) -> list[Html | None]:
    """What was learnt from and measured on."""
    given = record.get("data") or {}
    known = {"name", "kind", "counts", "classes", "split", "warnings"}
    table = language.statistics(record)
    known |= {"statistics", "left_out"} if table else set()
    counts, split = given.get("counts"), given.get("split")
    if table:  # it has them
        counts, split = {}, {key: value for key, value in (split or {}).items() if key != "sizes"}
    tiles = []
    for name, value in counts.items() if isinstance(counts, Mapping) else []:
        tiles += flat(value, _words(name)) if number(value) is None else [(_words(name), plain(number(value), 0))]
    classes = given.get("classes")
    if isinstance(classes, list | tuple):
        more = f", \u2026 ({len(classes)} in all)" if len(classes) > 40 else ""
        classes = f"{len(classes)}: " + ", ".join(map(str, classes[:40])) + more if classes else None
    pairs = [
        ("Data", given.get("name")),
        ("Kind", given.get("kind")),
        ("Classes", classes),
        *_split(split),
    ]
    pairs += [pair for name, value in given.items() if name not in known for pair in flat(value, _words(name))]
    return [facts_row(tiles), table, facts(pairs), warnings(record)]


def _split(given: Any) -> list[tuple[str, str]]:
    """Which parts came with the data, and which were cut from training by which seed; the sizes stand above."""
    if not isinstance(given, Mapping):
        return flat(given, "Split")
    made, seed = given.get("made"), given.get("seed")
    pairs = flat(given.get("given"), "Parts that were given")
    if isinstance(made, Mapping) and made:
        listed = ", ".join(f"{part} {plain(number(size), 0)}" for part, size in made.items())
        pairs.append(("Cut from training", listed if seed is None else f"{listed} (seed {seed})"))
    rest = {key: value for key, value in given.items() if key not in ("made", "seed", "given", "sizes")}
    return pairs + flat(rest, "Split")


def facts_row(tiles: list[tuple[str, str]]) -> Html | None:
    """Counts, large, side by side."""
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in tiles]
    return tag("dl", pairs, class_="tiles") if pairs else None


def all_warnings(record: Record) -> list[str]:
    """What the run, its data and the measuring of each model warn of."""
    found = [*(record.get("warnings") or []), *((record.get("data") or {}).get("warnings") or [])]
    for model in models_of(record):
        found += [f"{model.get('name')}: {each}" for each in (model.get("cost") or {}).get("warnings") or []]
    return [str(each) for each in dict.fromkeys(found)]


def warnings(record: Record) -> Html | None:
    listed = all_warnings(record)
    title = "Warnings" if len(listed) > 1 else "Warning"
    lines = tag("ul", [tag("li", each) for each in listed])
    return tag("div", tag("h3", title), lines, class_="warnings", id="warnings") if listed else None


def again(record: Record) -> list[Html | None]:
    """What was run, on what, for how long; the lines that run it again."""
    recipe = record.get("recipe") or {}
    paper = ", ".join(str(part) for part in (recipe.get("paper"), recipe.get("year")) if part)
    pairs = [
        ("Recipe", recipe.get("name") and join(tag("code", recipe["name"]), paper and f" \u2013 {paper}")),
        ("What it does", recipe.get("summary")),
        ("Arguments", ", ".join(f"{name}={value}" for name, value in (recipe.get("arguments") or {}).items())),
        ("Seeds", ", ".join(map(str, record.get("seeds") or []))),
        ("Time", numbers.duration(number(record["seconds"])) if number(record.get("seconds")) is not None else None),
        *_passes(record),
        ("Limbeck", record.get("limbeck")),
        *flat(record.get("versions")),
        *flat(record.get("machine")),
    ]
    lines = [code("In a shell", str(record["command"]), shell=True)] if record.get("command") else []
    lines += [code("In Python", str(record["python"]))] if record.get("python") else []
    return [*lines, _config(record.get("config")), facts(pairs)]


def _passes(record: Record) -> list[tuple[str, str]]:
    """What the teacher read once for all, how fast, and its share of the run."""
    total, lines = number(record.get("seconds")), []
    for given in record.get("teacher_passes") or []:
        rows, seconds = number(given.get("rows")), positive(given.get("seconds"))
        if rows is None or seconds is None:
            continue
        share = f", {seconds / total:.0%} of the time" if total else ""
        lines.append(
            f"{rows:,.0f} {given.get('what')} in {numbers.duration(seconds)} ({rows / seconds:,.0f} a second){share}"
        )
    return [("The teacher read once", "; ".join(lines))] if lines else []


def _config(config: Any) -> Html | None:
    if not config:
        return None
    if not isinstance(config, str):
        import yaml

        config = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return code("The whole configuration", config, folded=True)


def dry_run(record: Record) -> list[Html | None]:
    """What was foreseen before the run, folded: it is long."""
    listed = facts(flat(record.get("dry_run")))
    title = tag("summary", "Shapes, parameter groups, time and memory, before the first step")
    return [tag("details", title, listed)] if listed else []


def flat(given: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested mappings as pairs of words and text: {"seed": 3} -> ("seed", "3")."""
    if isinstance(given, Mapping):
        names = {key: f"{name}, {_words(key, False)}" if name else _words(key) for key in given}
        return [pair for key, value in given.items() for pair in flat(value, names[key])]
    if given is None or given in ("", [], ()):
        return []
    if isinstance(given, list | tuple):
        more = f", \u2026 ({len(given)} in all)" if len(given) > 20 else ""
        return [(name, ", ".join(_line(each) for each in given[:20]) + more)]
    if "bytes" in name.lower().replace(",", "").split():
        return [(name.removesuffix(" bytes"), numbers.size(number(given)))] if number(given) is not None else []
    if isinstance(given, bool):
        return [(name, "yes" if given else "no")]
    return [(name, f"{given:.4g}" if isinstance(given, float) else str(given))]


def _line(given: Any) -> str:
    """A mapping in a list, in one line."""
    if isinstance(given, Mapping):
        return "; ".join(f"{key} {value}" for key, value in given.items())
    return f"{given:.3g}" if isinstance(given, float) else str(given)


def _words(key: Any, first: bool = True) -> str:
    text = str(key).replace("_", " ")
    return text[:1].upper() + text[1:] if first else text
