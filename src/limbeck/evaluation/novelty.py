"""Does a model notice what is new? Scores of known and of novel samples, the higher the more novel."""

from __future__ import annotations

from typing import Any

import numpy as np

from limbeck.errors import DataError


def novelty_metrics(known: Any, novel: Any) -> dict[str, float]:
    """`auroc`, `aupr` and `far95`, shares from 0 to 1, of scores [n] and [m] that are higher for what is novel.

    AUROC: how often a novel score is above a known one, ties by half. AUPR: average precision, novel ones positive. FAR95: the
    share of known scores strictly above the novel score at place int(0.05 m) from below, where 95 % of the novel are found
    (Wu et al., 2023; no interpolation).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    first, second = (np.asarray(scores, dtype=np.float64).reshape(-1) for scores in (known, novel))
    if not len(first) or not len(second):
        raise DataError(f"{len(first)} known and {len(second)} novel scores: expected one or more of each.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("A score is no finite number, so that known and novel samples cannot be ordered.")
    scores, is_novel = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    least = np.sort(second)[int(0.05 * len(second))]
    return {"auroc": float(roc_auc_score(is_novel, scores)), "aupr": float(average_precision_score(is_novel, scores)),
            "far95": float((first > least).mean())}  # fmt: skip
