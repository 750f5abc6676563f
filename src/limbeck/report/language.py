"""What the report of a language model shows beside the rest: its texts in numbers, what was generated, samples side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.evaluation.rationales import of_samples
from limbeck.report.markup import Html, grid, join, tag
from limbeck.report.numbers import number, plain, share
from limbeck.report.tables import swatch
from limbeck.report.words import ROLES, measure

Record = Mapping[str, Any]
SHOWN, MOST, LONGEST = 4, 20, 1500  # samples in sight, samples in all, letters of a text
_TEXTS = {"reference": "reference", "teacher": "teacher", "student": "student", "baseline": "student alone"}


def statistics(record: Record) -> Html | None:
    """Samples, tokens, lengths and what was cut, a row for each part."""
    given = (record.get("data") or {}).get("statistics")
    left_out = (record.get("data") or {}).get("left_out") or {}
    parts = {name: each for name, each in (given or {}).items() if isinstance(each, Mapping)}
    rows = []
    for name, each in parts.items():
        length, lost = each.get("length") or {}, left_out.get(name)
        lengths = [plain(number(length.get(key)), 0) for key in ("p50", "p95", "max")]
        counts = [plain(number(each.get(key)), 0) for key in ("samples", "rows", "tokens", "predicted")]
        lost = plain(sum(number(count) or 0 for count in lost.values()), 0) if isinstance(lost, Mapping) else "\u2013"
        rows.append([name, *counts, *lengths, share(number(each.get("cut"))), lost, share(number(each.get("padding")))])
    heads = [
        "Part",
        "Samples",
        "Rows",
        "Tokens",
        "Predicted",
        "Length p50",
        "p95",
        "Longest",
        "Cut",
        "Left out",
        "Padding",
    ]
    note = "Rows are what a step takes; lengths are tokens of a sample before it was cut; cut: samples that lost their end."
    table = grid("Texts in tokens", heads, rows)
    return join(tag("h3", "In tokens"), table, tag("p", note, class_="note")) if table else None


def generated(record: Record) -> list[Html | None]:
    """What models wrote, for training and for this report, and how like the teacher's the student's answers are."""
    given = [each for each in record.get("generated") or [] if isinstance(each, Mapping)]
    names = list(dict.fromkeys(name for each in given for name in each))
    heads = ["Stage", *(_words(name) for name in names)]
    rows = [[str(place + 1), *(_value(each.get(name)) for name in names)] for place, each in enumerate(given)]
    made = grid("Written during training", heads, rows) if names else None
    samples = _samples(record)
    alike = of_samples(samples)
    likeness = None
    if alike:
        said = [f"{measure(name).name} {measure(name).text(value)}" for name, value in alike.items()]
        likeness = tag("p", f"Student's answers against the teacher's, {len(samples)} prompts: {'; '.join(said)}.")
    shown = [_sample(sample) for sample in samples[:MOST]]
    rest = tag("details", tag("summary", f"{len(shown) - SHOWN} more"), shown[SHOWN:]) if len(shown) > SHOWN else None
    title = tag("h3", "Written during training") if made else None
    return [join(title, made) if made else None, likeness, join(shown[:SHOWN]) or None, rest]


def _samples(record: Record) -> list[Record]:
    given = record.get("samples")
    return [each for each in given if isinstance(each, Mapping)] if isinstance(given, list | tuple) else []


def _sample(sample: Record) -> Html:
    """One prompt, and under it the answers side by side."""
    texts = [key for key in _TEXTS if isinstance(sample.get(key), str)]
    texts += [key for key, value in sample.items() if isinstance(value, str) and key not in (*_TEXTS, "prompt")]
    cells = [
        tag(
            "div",
            tag("p", swatch(key) if key in ROLES else None, _TEXTS.get(key, key), class_="who"),
            _text(sample[key]),
        )
        for key in texts
    ]
    prompt = _text(sample["prompt"], "prompt") if isinstance(sample.get("prompt"), str) else None
    return tag("article", prompt, tag("div", cells, class_="answers"), class_="sample")


def _text(text: str, kind: str = "") -> Html:
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " \u2026"
    return tag("p", shown or Html('<span class="none">nothing</span>'), class_=f"written {kind}".strip())


def _value(given: Any) -> str:
    return plain(number(given)) if number(given) is not None else "\u2013" if given is None else str(given)


def _words(name: str) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]
