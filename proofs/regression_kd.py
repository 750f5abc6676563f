"""A teacher of values: what it says of rows that nobody measured."""

from __future__ import annotations

from typing import Any

from _common import score, trained

import limbeck as lb
from limbeck.data import load_data
from limbeck.proving import paired

CLAIM = (
    "On the diabetes data with 40 labels and the rest of the rows unlabelled, a small network explains more of the test part "
    "by regression_kd than by its labels alone (R2, mean of 10 seeds)."
)
SEEDS = range(10)
NOTE = (
    "Teacher: a network of 64 units trained on all labels of the training part; student: 8 units; 600 steps of batch 32. Each "
    "tuned on validation with three ways: the share of the teacher, 0.3, 0.6 or 1 at the run's rate, and the student alone at "
    "a third, one and three times of it."
)
BUDGET: dict[str, Any] = {"steps": 600, "batch_size": 32, "learning_rate": 3e-3, "evaluate_every": 50}


def fit(run: lb.Run) -> float:
    """The best R2 on the validation part: what may be tuned on."""
    return max(run.record["scores_over_time"]["r2"]["value"])


def measure(seed: int) -> dict[str, float]:
    teacher = trained("alone", seed=seed, data="diabetes", student="mlp:64", **{**BUDGET, "steps": 300}).student
    data = load_data("diabetes", labelled=40, seed=seed)
    few: dict[str, Any] = {**BUDGET, "seed": seed, "data": data, "student": "mlp:8"}
    follow = max((trained("regression_kd", teacher=teacher, soft=soft, **few) for soft in (0.3, 0.6, 1.0)), key=fit)
    rates = (1e-3, 3e-3, 1e-2)
    alone = max((trained("alone", **{**few, "learning_rate": rate}) for rate in rates), key=fit)
    return {
        "regression_kd": score(follow, "r2"),
        "alone": score(alone, "r2"),
        "teacher": score(follow, "r2", "teacher"),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gain, error = paired(rows, "regression_kd", "alone")
    behind, behind_error = paired(rows, "regression_kd", "teacher")
    return gain > 2 * error, (
        f"R2 {gain / 100:+.3f} ± {error / 100:.3f} over the student alone, {behind / 100:+.3f} ± {behind_error / 100:.3f} from "
        "the teacher, which has all labels."
    )
