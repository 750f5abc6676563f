"""Multi-level logit distillation: predictions on three levels."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "multi_level_logit than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("multi_level_logit")
judge = judge_of("multi_level_logit")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
