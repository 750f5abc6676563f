"""Several teachers without labels, from a student that is trained already."""

from __future__ import annotations

import functools
from typing import Any

import torch
from _common import score, trained, valid_accuracy

from limbeck.proving import paired

CLAIM = (
    "On digits, a student that goes on from its labels with the mean of three teachers by MEAL V2 is more accurate than by its "
    "labels alone, and than by KD from one of the teachers, after as many updates (mean of 10 seeds)."
)
SEEDS = range(10)
NOTE = (
    "Teachers: CNNs of width 8, 16 and 32 trained on all labels; student: mlp:12, 1,200 steps in all, half of them on labels "
    "first in MEAL V2 (or a quarter; the better on validation). KD at temperature 1 or 4, the student alone at the run's rate "
    "or a third, likewise. Beside it: MEAL V2 without the discriminator, and KD from all three at once."
)
BUDGET: dict[str, Any] = {"student": "mlp:12", "steps": 1200, "valid": 0.15, "test": 0.3}


@functools.cache
def teachers() -> list[torch.nn.Module]:
    return [trained("alone", seed=i, student=f"cnn(width={width}, depth=3)", steps=400).student
            for i, width in enumerate((8, 16, 32))]  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    def best(*ways: dict[str, Any]) -> float:
        return score(max((trained(seed=seed, **{**BUDGET, **way}) for way in ways), key=valid_accuracy))

    every, one = teachers(), teachers()[seed % 3]
    return {
        "meal_v2": best(*({"recipe": "meal_v2", "teacher": every, "before": share} for share in (0.25, 0.5))),
        "alone": best(*({"recipe": "alone", "learning_rate": rate} for rate in (3e-3, 1e-3))),
        "kd": best(*({"recipe": "kd", "teacher": one, "temperature": t} for t in (1.0, 4.0))),
        "kd_of_three": best(*({"recipe": "kd", "teacher": every, "temperature": t} for t in (1.0, 4.0))),
        "plain": best(
            *({"recipe": "meal_v2", "teacher": every, "before": share, "weight": 0.0} for share in (0.25, 0.5))
        ),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    alone, alone_error = paired(rows, "meal_v2", "alone")
    kd, kd_error = paired(rows, "meal_v2", "kd")
    plain, plain_error = paired(rows, "meal_v2", "plain")
    three, three_error = paired(rows, "meal_v2", "kd_of_three")
    return alone > 2 * alone_error and kd > 2 * kd_error, (
        f"MEAL V2 {alone:+.2f} ± {alone_error:.2f} points over the student alone, {kd:+.2f} ± {kd_error:.2f} over KD from one "
        f"teacher, {three:+.2f} ± {three_error:.2f} over KD from three; the discriminator {plain:+.2f} ± {plain_error:.2f}."
    )
