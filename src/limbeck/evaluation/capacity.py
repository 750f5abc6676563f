"""Which size of teacher is best for a student? The peak of scores over sizes, and how it moves with the student's size.

A larger teacher knows more and is further away; towards the law of capacity gap (2023) the best one is a constant multiple of
the student. Pure functions of scores that short runs gave; `limbeck.advise` makes the runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.errors import ArgumentError

INTERVAL = 0.95


@dataclass(frozen=True)
class Peak:
    """Where scores over teacher sizes are highest.

    `best`: the place of the best mean. `size` its size, `low` to `high` the 95 % bootstrap interval of the best size (equal to
    all sizes tried for one seed, of which nothing can be known). `shares` [sizes]: how often each was best. `seen`: whether it
    is a peak: the whole interval lies between the smallest and the largest size, and the best is better than either of these
    by more than chance (paired t test over seeds, one-sided, 2.5 %; few seeds have no other way to say so).
    """

    best: int
    size: float
    low: float
    high: float
    shares: tuple[float, ...]
    seen: bool


def peak(sizes: Sequence[float], scores: Sequence[Sequence[float]], better: str = "more", draws: int = 2000,
         seed: int = 0) -> Peak:  # fmt: skip
    """The peak of `scores` [sizes][seeds] over `sizes` [sizes], rising; seed i is the same student for every size.

    The bootstrap draws seeds, the same for all sizes, and looks which mean is best; `better` is "more" or "less". Raises
    ArgumentError for fewer than two sizes, sizes that do not rise, or scores that do not fit or are not finite.
    """
    table = np.asarray(scores, dtype=float)
    if better not in ("more", "less"):
        raise ArgumentError(f"better={better!r}: expected 'more' or 'less'.")
    if len(sizes) < 2 or table.ndim != 2 or len(table) != len(sizes) or not table.shape[1]:
        raise ArgumentError(
            f"{len(sizes)} sizes and scores of shape {list(table.shape)}; expected [sizes, seeds], 2 sizes or more."
        )
    if any(one >= other for one, other in zip(sizes, list(sizes)[1:])) or sizes[0] <= 0:
        raise ArgumentError(f"sizes={list(sizes)}: expected positive sizes that rise.")
    if not np.isfinite(table).all():
        raise ArgumentError("A score is not finite: a student that diverged has no place in the comparison.")
    table = table if better == "more" else -table
    best, seeds = int(table.mean(1).argmax()), table.shape[1]
    if seeds == 1:
        return Peak(
            best, sizes[best], sizes[0], sizes[-1], tuple(float(place == best) for place in range(len(sizes))), False
        )
    drawn = np.random.default_rng(seed).integers(seeds, size=(draws, seeds))
    winners = table[:, drawn].mean(2).argmax(0)  # [draws]
    tail = (1 - INTERVAL) / 2
    low, high = (int(np.quantile(winners, share, method="inverted_cdf")) for share in (tail, 1 - tail))
    shares = np.bincount(winners, minlength=len(sizes)) / draws
    seen = low > 0 and high < len(sizes) - 1 and all(_above(table[best], table[end]) for end in (0, -1))
    return Peak(best, sizes[best], sizes[low], sizes[high], tuple(map(float, shares)), seen)


def _above(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether paired scores [seeds] are larger by more than chance."""
    from scipy.stats import t

    gaps = one - other
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return bool(gaps.mean() > t.ppf(0.5 + INTERVAL / 2, len(gaps) - 1) * error)


@dataclass(frozen=True)
class Law:
    """log(best teacher) = log(student) + c: `ratio` e^c, from `low` to `high` (two standard errors of c; equal for two students
    or fewer that agree).

    `slope`: of log(best teacher) over log(student) where it is free, ± `slope_error` (None for fewer than three students).
    `constant`: whether 1 lies within two errors of it, None where that cannot be known.
    """

    ratio: float
    low: float
    high: float
    slope: float | None
    slope_error: float | None
    constant: bool | None


def capacity_law(students: Sequence[float], teachers: Sequence[float]) -> Law:
    """Fit the law to the best teacher size of each student size, [students] each, least squares of logarithms.

    Raises ArgumentError for fewer than two students, or sizes that are not positive.
    """
    if len(students) != len(teachers) or len(students) < 2:
        raise ArgumentError(
            f"{len(students)} students and {len(teachers)} best teachers; expected as many of each, 2 or more."
        )
    if min(*students, *teachers) <= 0:
        raise ArgumentError("Sizes must be positive.")
    xs, ys = [math.log(size) for size in students], [math.log(size) for size in teachers]
    gaps = [y - x for x, y in zip(xs, ys)]
    c, error = statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
    slope = slope_error = constant = None
    middle = statistics.fmean(xs)
    width = sum((x - middle) ** 2 for x in xs)
    if len(xs) > 2 and width > 0:
        height = statistics.fmean(ys)
        slope = sum((x - middle) * (y - height) for x, y in zip(xs, ys)) / width
        rest = sum((y - height - slope * (x - middle)) ** 2 for x, y in zip(xs, ys))
        slope_error = math.sqrt(rest / (len(xs) - 2) / width)
        constant = abs(slope - 1) <= 2 * slope_error + 1e-9
    return Law(math.exp(c), math.exp(c - 2 * error), math.exp(c + 2 * error), slope, slope_error, constant)
