"""Variational information distillation: what layers tell about each other."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "vid than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("vid(weight=[1.0, 0.1, 0.01])")
judge = judge_of("vid")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
