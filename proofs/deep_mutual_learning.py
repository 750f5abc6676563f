"""Deep mutual learning: two students and no teacher."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "deep_mutual_learning than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("deep_mutual_learning")
judge = judge_of("deep_mutual_learning")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
