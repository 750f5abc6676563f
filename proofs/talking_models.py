"""Messages in the middle of both models, beside pooled features behind a map, KD and the student alone."""

from __future__ import annotations

import functools

import numpy as np
from _equal_terms import FIRST, SEEDS, teacher

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On digits with 100 labels and the rest of the images unlabelled, the student is more accurate by talking_models than by "
    "matching pooled features, and by these than alone, all tuned with equal effort (mean of 5 seeds)."
)
NOTE = (
    "Teacher: a CNN of width 16 and depth 3 trained on all labels; student: width 4, the same depth; 400 steps. Six ways of "
    "each on the first seed, chosen by validation: for features three weights and the learning rate, of messages the weight "
    "of what is asked. KD is beside them: messages carry predictions too."
)


@functools.cache
def table() -> dict[str, list[float]]:
    recipes = {
        "talking_models": "talking_models(asked=[0.3, 1.0, 3.0])",
        "features": "distiller(soft=0.0, intermediate='mse', weight=[0.1, 1.0, 10.0])",
        "kd": "kd",
    }
    found = lb.compare(recipes=recipes, data="digits", teacher=teacher(), student="cnn(width=4,depth=3)", labelled=100,
                       valid=0.15, test=0.25, steps=400, learning_rate=3e-3, seeds=len(SEEDS), tune=6, seed=FIRST,
                       progress=False)  # fmt: skip
    (each,) = found.record["sets"].values()
    return {name: [100 * scores["accuracy"] for scores in row["scores"]] for name, row in each["rows"].items()}


def measure(seed: int) -> dict[str, float]:
    return {name: values[seed] for name, values in table().items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    over, error = paired(rows, "talking_models", "features")
    alone, alone_error = paired(rows, "features", "alone")
    kd, kd_error = paired(rows, "talking_models", "kd")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return over > 2 * error and alone > 2 * alone_error, (
        f"Messages {mean['talking_models']:.1f} %, {over:+.1f} ± {error:.1f} points over features and {kd:+.1f} ± "
        f"{kd_error:.1f} from KD; features {alone:+.1f} ± {alone_error:.1f} over the student alone."
    )
