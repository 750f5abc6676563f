"""PKD-BERT: first tokens of layers beside predictions."""

from __future__ import annotations

from _encoders import NOTE, SEEDS, judge_of, measure_of

CLAIM = (
    "On TREC questions of which a tenth have labels, an encoder of 2 layers taught by one of 6 layers is more accurate by "
    "pkd_bert than by KD and than by its labels alone, after as many updates (mean of 3 seeds)."
)
measure = measure_of("pkd_bert", {"beta": 10.0}, {"beta": 100.0})
judge = judge_of("pkd_bert")

__all__ = ["CLAIM", "NOTE", "SEEDS", "judge", "measure"]
