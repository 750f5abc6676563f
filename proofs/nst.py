"""Neuron selectivity transfer: patterns of channels as sets."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "nst than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("nst(weight=[50.0, 5.0, 0.5, 0.05])")
judge = judge_of("nst")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
