"""One recipe beside KD and the student alone, all tuned with equal effort: the proof of a baseline."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

import limbeck as lb
from limbeck.proving import paired

Row = dict[str, float]
SEEDS = range(5)
NOTE = (
    "Teacher: a CNN of width 16 and depth 3 trained on all labels; student: width 4, the same depth; 400 steps. Six ways of "
    "each are tried on the first seed and chosen by the validation part: weights or numbers around the published ones, and the "
    "learning rate, of the student alone too. The table is of the test part. Unlabelled images count for what a recipe makes "
    "of them."
)
FIRST = 10  # seeds that the ranking of all baselines has not seen


@functools.cache
def teacher() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lb.distill("alone", data="digits", student="cnn(width=16,depth=3)", steps=400, learning_rate=3e-3, seed=FIRST,
                      progress=False, measure=False).student  # fmt: skip


@functools.cache
def table(recipe: str) -> dict[str, list[float]]:
    """Accuracies in percent by seed: of the recipe, of KD and of the student alone."""
    name = recipe.partition("(")[0]
    found = lb.compare(recipes={name: recipe, "kd": "kd"}, data="digits", teacher=teacher(), student="cnn(width=4,depth=3)",
                       labelled=100, valid=0.15, test=0.25, steps=400, learning_rate=3e-3, seeds=len(SEEDS), tune=6,
                       seed=FIRST, progress=False)  # fmt: skip
    (each,) = found.record["sets"].values()
    rows = {name: [100 * scores["accuracy"] for scores in row["scores"]] for name, row in each["rows"].items()}
    return rows | {"teacher": [100 * each["teacher"]["accuracy"]] * len(SEEDS)}


def measure_of(recipe: str) -> Callable[[int], Row]:
    return lambda seed: {name: values[seed] for name, values in table(recipe).items()}


def judge_of(name: str) -> Callable[[list[Row]], tuple[bool, str]]:
    """More accurate than the student alone; how far from KD is told."""

    def judge(rows: list[Row]) -> tuple[bool, str]:
        gain, error = paired(rows, name, "alone")
        kd, kd_error = paired(rows, name, "kd")
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        return gain > 2 * error, (
            f"{name} {mean[name]:.1f} %, {gain:+.1f} ± {error:.1f} points over the student alone and {kd:+.1f} ± "
            f"{kd_error:.1f} from KD; the teacher has {mean['teacher']:.1f} %."
        )

    return judge
