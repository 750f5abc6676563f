"""Is one model better than another, or is it chance? Differences over seeds, with what can honestly be said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.report.numbers import Stat, number, positive, stat
from limbeck.report.words import Measure, measure

# two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom; beyond them 1.96 + 2.5 / degrees is near enough
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Difference:
    """First minus second. `error` is the standard error, `clear` whether the difference is larger than chance.

    `clear` is None, and `error` too, where nothing is known of the spread. `basis` says where the error comes from.
    """

    mean: float
    error: float | None
    clear: bool | None
    basis: str

    def word(self, measure: Measure) -> str:
        """'better', 'worse' or 'no clear difference', seen from the first; '' for a measure of unknown direction."""
        if self.clear is False or self.mean == 0:
            return "no clear difference" if self.clear is False else "the same"
        if not measure.better:
            return ""
        return "better" if (self.mean > 0) == (measure.better == "more") else "worse"


def difference(first: Stat, second: Stat, measure: Measure, samples: float | None = None) -> Difference:
    """Compare two scores.

    Seeds: with as many values on both sides (2 or more) the differences are paired; else the variances are pooled. The
    difference is clear when it lies outside the 95 % interval of Student's t. One seed on each side says nothing of
    training; for a share of samples the binomial error of `samples` then stands in (two standard errors, both
    models taken as independent, which is the careful side).
    """
    gap, one, two = first.mean - second.mean, first.values, second.values
    if not math.isfinite(gap):
        return Difference(gap, None, None, "")
    if len(one) == len(two) >= 2:
        error = statistics.stdev([a - b for a, b in zip(one, two)]) / math.sqrt(len(one))
        return _judged(first, gap, error, len(one) - 1, f"paired over {len(one)} seeds")
    freedom = len(one) + len(two) - 2
    if freedom >= 1:
        squares = sum((len(each) - 1) * statistics.variance(each) for each in (one, two) if len(each) > 1)
        error = math.sqrt(squares / freedom * (1 / len(one) + 1 / len(two)))
        return _judged(first, gap, error, freedom, f"{len(one)} against {len(two)} seeds")
    if measure.counted and samples:
        error = math.sqrt(sum(max(0.0, each.mean * (1 - each.mean)) for each in (first, second)) / samples)
        return Difference(gap, error, abs(gap) > 2 * error, f"one seed, {samples:,.0f} samples")
    return Difference(gap, None, None, "one seed")


def _judged(first: Stat, gap: float, error: float, freedom: int, basis: str) -> Difference:
    limit = _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom
    # equal values differ by a rounding of 1e-17: that is not a difference
    return Difference(gap, error, abs(gap) > max(limit * error, 1e-12 * abs(first.mean)), basis)


def models_of(record: Mapping[str, Any], *roles: str) -> list[Mapping[str, Any]]:
    """The models that were measured, of these roles (all, if none is named), in the record's order."""
    return [model for model in record.get("models") or [] if not roles or model.get("role") in roles]


def first_of(record: Mapping[str, Any], role: str) -> Mapping[str, Any] | None:
    return next(iter(models_of(record, role)), None)


def score(model: Mapping[str, Any] | None, key: str) -> Stat | None:
    """A model's score or agreement of that name."""
    if not model:
        return None
    given = (model.get("scores") or {}).get(key)
    return stat(given if given is not None else (model.get("agreement") or {}).get(key))


def cost(model: Mapping[str, Any] | None, key: str) -> float | None:
    """A model's cost of that name, or None where it was not measured or is not positive."""
    return positive(((model or {}).get("cost") or {}).get(key))


def latencies(model: Mapping[str, Any] | None) -> dict[tuple[str, int], Mapping[str, Any]]:
    """A model's measured latencies by (backend, batch)."""
    rows = ((model or {}).get("cost") or {}).get("latency") or []
    return {way_of(row): row for row in rows if positive(row.get("p50_ms"))}


def way_of(timed: Mapping[str, Any]) -> tuple[str, int]:
    """How a latency was measured: (backend, batch)."""
    return str(timed.get("backend") or ""), int(timed.get("batch") or 1)


def common_latency(models: list[Mapping[str, Any]]) -> tuple[str, int] | None:
    """The way of running that all these models were timed in; the first listed if there are several."""
    tables = [latencies(model) for model in models]
    return next((key for key in tables[0] if all(key in table for table in tables)), None) if tables else None


def scored_part(record: Mapping[str, Any]) -> str:
    """The part of the data that the scores were measured on."""
    return str((record.get("data") or {}).get("scored on") or "test")


def scored_samples(record: Mapping[str, Any]) -> float | None:
    """How many samples that part has."""
    counts = (record.get("data") or {}).get("counts") or {}
    return number(counts.get(scored_part(record))) if isinstance(counts, Mapping) else None


def _counted(record: Mapping[str, Any], key: str) -> float | None:
    """Of how many samples a score is: what is written answers fewer prompts than the part has."""
    prompts = number((record.get("generation") or {}).get("prompts"))
    return prompts if key in ("exact_match", "unfinished_answers") and prompts else scored_samples(record)


def against_baseline(record: Mapping[str, Any]) -> Iterator[tuple[Measure, Stat, Stat, Difference]]:
    """For each score of the student that the baseline has too: measure, student, baseline, difference."""
    student, baseline = first_of(record, "student"), first_of(record, "baseline")
    for key in [*((student or {}).get("scores") or {}), *((student or {}).get("agreement") or {})]:
        ours, theirs = score(student, key), score(baseline, key)
        if ours and theirs:
            what = measure(key)
            yield what, ours, theirs, difference(ours, theirs, what, _counted(record, key))
