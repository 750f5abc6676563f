"""Masked generative distillation: the teacher's map out of a part of the student's."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "mgd than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("mgd(weight=[7e-5, 7e-4, 7e-3, 7e-2])")
judge = judge_of("mgd")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
