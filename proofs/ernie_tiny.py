"""ERNIE-Tiny: from the task's texts to its labels, in the two stages that need nothing else."""

from __future__ import annotations

from _encoders import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On TREC questions of which a tenth have labels, an encoder of 2 layers taught by one of 6 layers is more accurate by "
    "ernie_tiny than by KD and than by its labels alone, after as many updates (mean of 3 seeds)."
)
measure = measure_of("ernie_tiny", {"before": 0.3}, {"before": 0.7})
judge = judge_of("ernie_tiny")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
