"""Channel-wise distillation: where each channel looks."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "cwd than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("cwd(weight=[50.0, 5.0, 0.5, 0.05])")
judge = judge_of("cwd")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
