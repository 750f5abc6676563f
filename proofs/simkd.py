"""SimKD: the teacher's classifier on the student's maps."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "simkd than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("simkd")
judge = judge_of("simkd")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
