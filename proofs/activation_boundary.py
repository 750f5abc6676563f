"""Activation boundaries: which neurons are active, before the labels."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "activation_boundary than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("activation_boundary")
judge = judge_of("activation_boundary")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
