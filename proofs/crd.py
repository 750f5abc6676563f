"""Contrastive representation distillation: a sample's vector among thousands of others."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "crd than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("crd(weight=[0.8, 0.2, 0.05])")
judge = judge_of("crd")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
