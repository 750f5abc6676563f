"""Born-again students: one generation after the other."""

from __future__ import annotations

from _equal_terms import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by "
    "born_again than alone, both tuned with equal effort (mean of 5 seeds)."
)
measure = measure_of("born_again")
judge = judge_of("born_again")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
