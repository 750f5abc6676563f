"""Who stands where in a comparison: ranks over seeds and data sets, and paired differences that say what chance explains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]
ALONE = "alone"


def values(found: Mapping[str, Any], label: str) -> list[float]:
    """The main score of a recipe on one data set, of each seed; NaN where its training diverged."""
    return [float(scores.get(found["measure"], math.nan)) for scores in found["rows"][label]["scores"]]


def reference(record: Mapping[str, Any]) -> str:
    """What all are compared with: the student alone, or where there is none the first recipe."""
    labels = _labels(record)
    alone = [label for label in labels if _rows(record, label)[0]["recipe"] == ALONE]
    return alone[0] if alone else labels[0]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Record:
    """Mean of the paired differences, half of their 95 % interval (Student's t), and the two-sided p; None where unknown."""
    from scipy.stats import t

    gaps = [a - b for a, b in zip(ours, theirs) if math.isfinite(a - b)]
    mean = statistics.fmean(gaps) if gaps else math.nan
    if len(gaps) < 2:
        return {"mean": mean, "half": None, "p": None, "pairs": len(gaps)}
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    if error < 1e-12 * max(1.0, abs(mean)):  # equal gaps, up to rounding
        return {"mean": mean, "half": 0.0, "p": 1.0 if abs(mean) < 1e-12 else 0.0, "pairs": len(gaps)}
    freedom = len(gaps) - 1
    return {"mean": mean, "half": float(t.ppf(0.975, freedom) * error), "p": float(2 * t.sf(abs(mean) / error, freedom)),
            "pairs": len(gaps)}  # fmt: skip


def holm(given: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values corrected for their number by Holm's steps, so that the best of many is not called better by chance."""
    known = sorted((p, name) for name, p in given.items() if p is not None)
    found: dict[str, float | None] = dict.fromkeys(given)
    largest = 0.0
    for place, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - place) * p))
        found[name] = largest
    return found


def gaps(record: Mapping[str, Any], name: str) -> dict[str, Record]:
    """Of each recipe but the reference, on one data set: `paired` with the reference, and "clear" by Holm's p below 0.05."""
    found, base = record["sets"][name], reference(record)
    made = {label: paired(values(found, label), values(found, base)) for label in found["rows"] if label != base}
    corrected = holm({label: gap["p"] for label, gap in made.items()})
    clear = {label: None if p is None else p < 0.05 for label, p in corrected.items()}
    return {label: {**gap, "holm": corrected[label], "clear": clear[label]} for label, gap in made.items()}


def ranks(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """The rank of each recipe, 1 the best, in every block: a seed of a data set. Ties share; what diverged comes last."""
    from scipy.stats import rankdata

    found: dict[str, list[float]] = {label: [] for label in _labels(record)}
    for each in record["sets"].values():
        sign = -1 if each["direction"] == "max" else 1
        columns = {label: values(each, label) for label in found}
        for block in zip(*columns.values()):
            keyed = [sign * value if math.isfinite(value) else math.inf for value in block]
            for label, rank in zip(columns, rankdata(keyed)):
                found[label].append(float(rank))
    return found


def ranking(record: Mapping[str, Any]) -> list[Record]:
    """A line for each recipe, the best mean rank first: ranks, and for each data set scores, differences, costs."""
    every, by_set = ranks(record), {name: gaps(record, name) for name in record["sets"]}
    lines = []
    for label in sorted(every, key=lambda label: (statistics.fmean(every[label]), label)):
        sets = {}
        for name, found in record["sets"].items():
            row = found["rows"][label]
            sets[name] = {
                "values": values(found, label), "gap": by_set[name].get(label), "steps": row["steps"], "bytes": row["bytes"],
                "ms_per_step": 1000 * row["seconds"] / max(1, row["steps"] * len(row["scores"])), "chosen": row["chosen"],
                "errors": row["errors"],
            }  # fmt: skip
        lines.append({"label": label, "recipe": _rows(record, label)[0]["recipe"], "rank": statistics.fmean(every[label]),
                      "ranks": every[label], "sets": sets})  # fmt: skip
    return lines


def verdict(record: Mapping[str, Any]) -> str:
    """The result in one sentence, which calls nothing better that chance explains."""
    lines, base = ranking(record), reference(record)
    blocks = len(lines[0]["ranks"])
    first = lines[0]["label"]
    said = f"Of {len(lines)} recipes {first} has the best mean rank, {lines[0]['rank']:.1f} over {blocks} {blocks_of(record)}"
    clear = {name: [label for label, gap in gaps(record, name).items() if gap["clear"] and _good(record, name, gap)]
             for name in record["sets"]}  # fmt: skip
    worse = {name: [label for label, gap in gaps(record, name).items() if gap["clear"] and not _good(record, name, gap)]
             for name in record["sets"]}  # fmt: skip
    parts = []
    for name in record["sets"]:
        on = f" on {name}" if len(record["sets"]) > 1 else ""
        if clear[name]:
            parts.append(f"clearly better than {called(base)}{on}: {', '.join(clear[name])}")
        if worse[name]:
            parts.append(f"clearly worse{on}: {', '.join(worse[name])}")
        if not clear[name] and not worse[name]:
            parts.append(
                f"no difference to {called(base)} is clear{on}"
                if blocks > 1
                else f"one seed, so that nothing is clear{on}"
            )
    if first == base:
        said = said.replace(f"{first} has", f"{called(first)} has")
    return f"{said}; {'; '.join(parts)}."


def blocks_of(record: Mapping[str, Any]) -> str:
    return "seeds" if len(record["sets"]) == 1 else "seeds and data sets"


def called(label: str) -> str:
    return "the student alone" if label == ALONE else label


def _good(record: Mapping[str, Any], name: str, gap: Mapping[str, Any]) -> bool:
    return (gap["mean"] > 0) == (record["sets"][name]["direction"] == "max")


def _labels(record: Mapping[str, Any]) -> list[str]:
    return list(next(iter(record["sets"].values()))["rows"])


def _rows(record: Mapping[str, Any], label: str) -> list[Record]:
    return [found["rows"][label] for found in record["sets"].values()]
