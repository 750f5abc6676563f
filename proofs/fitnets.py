"""FitNets: the map in the middle, behind a convolution."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "fitnets than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("fitnets(weight=[100.0, 10.0, 1.0, 0.1])")
judge = judge_of("fitnets")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
