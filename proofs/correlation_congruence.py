"""Correlation congruence: errors of neighbours in a batch."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "correlation_congruence than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("correlation_congruence")
judge = judge_of("correlation_congruence")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
