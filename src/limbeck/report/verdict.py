"""The verdict: one sentence that says what was gained and lost, and whether distillation was worth it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.compare import common_latency, cost, difference, first_of, latencies, score, scored_samples
from limbeck.report.numbers import Stat, decimals, fraction, plain, share, times
from limbeck.report.words import Measure, items_of, main_measure


def verdict(record: Mapping[str, Any]) -> str:
    """One honest sentence from the numbers of a record.

    The student against the teacher in the main score, size and speed; then against the same student trained alone. A
    difference that chance explains (see `compare.difference`) is called no clear difference; a worse student is said to
    be one. What was not measured is not mentioned, except a missing baseline, without which no gain can be claimed.
    """
    measure = main_measure(record)
    student, teacher, baseline = (first_of(record, role) for role in ("student", "teacher", "baseline"))
    ours = score(student, measure.key) if measure else None
    if measure is None or ours is None:
        return "No student was measured in this run."
    theirs, alone = score(teacher, measure.key), score(baseline, measure.key)
    digits = decimals([each.mean for each in (ours, theirs, alone) if each], measure.share)
    sentence = _quality(measure, ours, theirs, digits)
    if teacher:
        sentence += _size(student, teacher) + _speed(student, teacher)
    if alone:
        return f"{sentence}; {_baseline(record, measure, ours, alone, digits)}."
    if theirs and record.get("learns alone", True):
        return f"{sentence}; the same student was not trained alone, so what distillation added is not known."
    return f"{sentence} ({_seeds(ours, measure, digits)})."


def _quality(measure: Measure, ours: Stat, theirs: Stat | None, digits: int) -> str:
    value = measure.text(ours.mean, digits)
    has = f"reaches {value} {measure.name}" if measure.share else f"has a {measure.name} of {value}"
    if theirs is None:
        return f"The student {has}"
    other = measure.text(theirs.mean, digits)
    if measure.share and measure.better == "more" and ours.mean < theirs.mean:
        kept = ours.mean / theirs.mean
        kept_text = next(
            (text for text in (share(kept, 1), share(kept, 2)) if not text.startswith("100")), "almost all"
        )
        return f"The student keeps {kept_text} of the teacher's {measure.name} ({value} of {other})"
    more = ours.mean / theirs.mean - 1 if theirs.mean > 0 else 0
    gap = (
        f" ({abs(more) * 100:.0f} % {'more' if more > 0 else 'less'})"
        if abs(more) >= 0.005 and not measure.share
        else ""
    )
    return f"The student {has} against the teacher's {other}{gap}"


def _size(student: Any, teacher: Any) -> str:
    for key, word in (("bytes", "size"), ("parameters", "parameters")):
        small, large = cost(student, key), cost(teacher, key)
        if small and large:
            ratio = large / small
            start = " at" if key == "bytes" else " with"
            if 0.98 < ratio < 1.02:
                return f"{start} the same {'size' if key == 'bytes' else 'number of parameters'}"
            return f"{start} {fraction(ratio)} {'of ' if ratio > 1 else ''}its {word}"
    return ""


def _speed(student: Any, teacher: Any) -> str:
    way = common_latency([student, teacher])
    if way is None:
        return ""
    ratio = latencies(teacher)[way]["p50_ms"] / latencies(student)[way]["p50_ms"]
    if 0.9 < ratio < 1.1:
        return " and answers about as fast"
    return f" and answers {times(ratio)} times faster" if ratio > 1 else f" and answers {times(1 / ratio)} times slower"


def _baseline(record: Mapping[str, Any], measure: Measure, ours: Stat, alone: Stat, digits: int) -> str:
    found = difference(ours, alone, measure, scored_samples(record))
    word = found.word(measure)
    verb = "reaches" if measure.share else "has"
    given = "text" if items_of(record) == "tokens" else "labels"
    text = f"trained alone on the same {given} it {verb} {measure.text(alone.mean, digits)} ({_seeds(alone, measure, digits)}"
    text += ", so the spread is not known)" if found.clear is None and len(alone.values) == 1 else ")"
    if word == "no clear difference":
        gap = measure.step(found.mean, found.error)
        return f"{text}: no clear difference ({gap}), so distillation is not shown to pay here"
    return f"{text}: distillation did not pay here" if word in ("worse", "the same") else text


def _seeds(given: Stat, measure: Measure, digits: int) -> str:
    if given.std is None:
        return "one seed"
    seeds = f"{len(given.values)} seeds, " if len(given.values) > 1 else ""
    return f"{seeds}± {plain(given.std * (100 if measure.share else 1), digits)}"
