"""The table of models for a terminal and for --json. No torch, no plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.report.compare import against_baseline, cost, latencies, models_of, score
from limbeck.report.numbers import Stat, decimals, milliseconds, number, rate
from limbeck.report.words import FORMATS, is_detail, measure

if TYPE_CHECKING:
    from rich.table import Table


def keys_of(record: Mapping[str, Any], kind: str) -> list[str]:
    """The names of all `scores` (or `agreement`, or the costs) that any model of the record has, in order of appearance."""
    names = [name for model in models_of(record) for name in model.get(kind) or {}]
    if kind == "cost":
        names = [name for name in FORMATS if any(cost(model, name) for model in models_of(record))]
    return [name for name in dict.fromkeys(names) if kind == "cost" or any(score(m, name) for m in models_of(record))]


def ways_of(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    """All (backend, batch) in which any model was timed."""
    return list(dict.fromkeys(way for model in models_of(record) for way in latencies(model)))


def way_name(way: tuple[str, int]) -> str:
    """('torch', 1) -> 'torch, one at a time'."""
    backend, batch = way
    return ", ".join(filter(None, [backend, "one at a time" if batch == 1 else f"{batch} at a time"]))


def table_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat dict for each model: model, role, every score as `accuracy` and `accuracy_std` (None for one seed), costs
    (`parameters`, `bytes`, `macs`), and latencies as `p50_ms[torch, 1]`, `p95_ms[torch, 1]`, `throughput[torch, 1]`.

    What was not measured is None, so that all rows have the same keys.
    """
    rows = []
    for model in models_of(record):
        row: dict[str, Any] = {"model": model.get("name"), "role": model.get("role")}
        for key in [*keys_of(record, "scores"), *keys_of(record, "agreement")]:
            found = score(model, key)
            row |= {key: found.mean if found else None, f"{key}_std": found.std if found else None}
        row |= {key: number((model.get("cost") or {}).get(key)) for key in keys_of(record, "cost")}
        for way in ways_of(record):
            timed = latencies(model).get(way, {})
            name = f"[{way[0]}, {way[1]}]"
            row |= {key + name: number(timed.get(key)) for key in ("p50_ms", "p95_ms", "throughput")}
        rows.append(row)
    return rows


def table(record: Mapping[str, Any]) -> Table:
    """The same for a terminal: one column for each model, one row for each measure.

    The last column compares the student with the same student trained alone.
    """
    from rich.table import Table
    from rich.text import Text

    models = models_of(record)
    compared = {measure.key: (measure, found) for measure, _, _, found in against_baseline(record)}
    result = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    result.add_column("", min_width=18)
    for model in models:
        result.add_column(Text(str(model.get("name"))), justify="right", no_wrap=True)
    if compared:
        result.add_column("against alone", justify="right")
    extra = [""] if compared else []
    agreed = [key for key in keys_of(record, "agreement") if not is_detail(key)]  # the page and --json have all
    for key in [*keys_of(record, "scores"), *agreed]:
        what, found = measure(key), [score(model, key) for model in models]
        digits = decimals([each.mean for each in found if each], what.share)
        cells = [what.spread(each, digits) if isinstance(each, Stat) else "\u2013" for each in found]
        if key in compared:
            gap = compared[key][1]
            word = gap.word(what).replace("no clear difference", "unclear")
            cells.append(f"{what.step(gap.mean, gap.error, digits).removesuffix(' points')} {word}".rstrip())
        else:
            cells += extra
        result.add_row(Text(what.label), *cells)
    for key in keys_of(record, "cost"):
        result.add_row(Text(measure(key).label), *[FORMATS[key](cost(model, key)) for model in models], *extra)
    for way in ways_of(record):
        timed = [latencies(model).get(way, {}) for model in models]
        name = way_name(way)
        result.add_row(Text(f"Median, {name}"), *[milliseconds(number(t.get("p50_ms"))) for t in timed], *extra)
        result.add_row(Text("  95 % below"), *[milliseconds(number(t.get("p95_ms"))) for t in timed], *extra)
        result.add_row(Text("  throughput"), *[rate(number(t.get("throughput"))) for t in timed], *extra)
    return result


def show(record: Mapping[str, Any]) -> None:
    """Print the table, the verdict where there is one, and every warning."""
    from rich.console import Console

    from limbeck.report.details import all_warnings

    console = Console()
    console.print(table(record))
    for line in [record.get("verdict"), *(f"Warning: {warning}" for warning in all_warnings(record))]:
        if line:
            console.print(line, markup=False, highlight=False)
