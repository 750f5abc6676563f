"""Attention transfer: where maps are strong."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "attention_transfer than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("attention_transfer(weight=[1000.0, 100.0, 10.0, 1.0])")
judge = judge_of("attention_transfer")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
