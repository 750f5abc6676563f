"""ReviewKD: the teacher's stages from all of the student's."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "review_kd than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("review_kd(weight=[5.0, 0.5, 0.05])")
judge = judge_of("review_kd")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
