"""Factor transfer: the teacher's maps as factors."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "factor_transfer than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("factor_transfer(weight=[200.0, 20.0, 2.0, 0.2])")
judge = judge_of("factor_transfer")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
