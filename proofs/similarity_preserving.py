"""Similarity preserving: which samples a layer finds alike."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "similarity_preserving than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("similarity_preserving(weight=[3000.0, 300.0, 30.0, 3.0])")
judge = judge_of("similarity_preserving")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
