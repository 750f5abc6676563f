"""Distiller with MI-alpha: information that layers share, beside predictions."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "distiller than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("distiller")
judge = judge_of("distiller")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
