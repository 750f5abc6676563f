"""MiniLMv2: relations of queries, keys and values, and then the labels."""

from __future__ import annotations

from _encoders import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On TREC questions of which a tenth have labels, an encoder of 2 layers taught by one of 6 layers is more accurate by "
    "minilm_v2 than by KD and than by its labels alone, after as many updates (mean of 3 seeds)."
)
measure = measure_of("minilm_v2", {"before": 0.3}, {"before": 0.7})
judge = judge_of("minilm_v2")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
