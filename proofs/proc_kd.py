"""A teacher of the digits 0 to 4 for a student of the digits 5 to 9."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from _common import score, trained, valid_accuracy

from limbeck.data import load_data
from limbeck.data.base import Data
from limbeck.data.splits import take
from limbeck.proving import paired

CLAIM = (
    "With a teacher of the digits 0 to 4 and 10 images of each of the digits 5 to 9, a student that composes its maps from the "
    "teacher's prototypes is more accurate than alone, and alone more than with the MSE of features (mean of 10 seeds)."
)
SEEDS = range(10)
NOTE = (
    "Teacher: a CNN of width 16; student: width 4; 300 steps. Two ways of each, by a validation part: 16 or 48 prototypes, two "
    "learning rates of the student alone, two weights of FitNets (100 and 1, at the last maps)."
)
BUDGET: dict[str, Any] = {"steps": 300, "student": "cnn(width=4, depth=3)"}


def half(data: Data, first: int, each: int | None = None) -> Data:
    """The digits from `first` on, five of them, with classes 0 to 4; of training so many of each."""
    parts = {}
    for name, part in data.parts.items():
        labels = part.labels.numpy()
        places = [
            np.flatnonzero(labels == number)[: each if name == "train" else None] for number in range(first, first + 5)
        ]
        kept = take(part, torch.from_numpy(np.sort(np.concatenate(places))), name)
        parts[name] = kept.with_labels(kept.labels - first)
    return Data(f"digits from {first}", "image", parts, target="classes", classes=[str(first + i) for i in range(5)])


@functools.cache
def teacher() -> torch.nn.Module:
    data = half(load_data("digits", valid=0.2, test=0.3, seed=0), 0)
    return trained("alone", seed=0, data=data, student="cnn(width=16, depth=3)", steps=600).student


def measure(seed: int) -> dict[str, float]:
    data = half(load_data("digits", valid=0.2, test=0.3, seed=seed), 5, each=10)

    def best(recipe: str, *ways: dict[str, Any]) -> float:
        runs = [trained(recipe, **{"seed": seed, "data": data, "teacher": teacher(), **BUDGET, **way}) for way in ways]
        return score(max(runs, key=valid_accuracy))

    return {
        "proc_kd": best("proc_kd", {"prototypes": 16}, {"prototypes": 48}),
        "alone": best("alone", {"learning_rate": 3e-3, "teacher": None}, {"learning_rate": 1e-3, "teacher": None}),
        "features": best(
            "fitnets", *({"weight": w, "student_layer": "block3", "teacher_layer": "block3"} for w in (100.0, 1.0))
        ),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    over, error = paired(rows, "proc_kd", "alone")
    features, features_error = paired(rows, "alone", "features")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return over > 2 * error and features > 2 * features_error, (
        f"ProC-KD {mean['proc_kd']:.1f} %, {over:+.1f} ± {error:.1f} points over the student alone, which is {features:+.1f} ± "
        f"{features_error:.1f} from that with features."
    )
