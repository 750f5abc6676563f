"""Small encoders of texts beside KD and their labels alone: what the proofs on TREC share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import score, trained, valid_accuracy
from tinybert import FEW, encoder, teacher

from limbeck.data import load_data
from limbeck.proving import paired

Row = dict[str, float]
SEEDS = range(10, 13)
NOTE = (
    "Teacher: a BERT of 6 layers, 96 wide, trained on all labels from scratch; students of 2 layers and the same width, 300 "
    "updates in all. KD and the recipe read all texts, the student alone those with labels. Two ways of each, the better on "
    "validation: KD at temperature 1 or 4, the student alone at the run's rate or half of it. No general texts and no "
    "pretrained model."
)


@functools.cache
def best(seed: int, recipe: str, ways: tuple[tuple[tuple[str, Any], ...], ...]) -> Any:
    """The run, out of some ways of a recipe, that is best on the validation part."""
    data = load_data(load_data("trec", seed=0), labelled=0.1, seed=seed)
    told = {} if recipe == "alone" else {"teacher": teacher()}
    runs = [trained(recipe, student=encoder(2, 1 + seed), **{**FEW, "seed": seed, "data": data, **told, **dict(way)})
            for way in ways]  # fmt: skip
    return max(runs, key=valid_accuracy)


def measure_of(recipe: str, *ways: dict[str, Any]) -> Callable[[int], Row]:
    def measure(seed: int) -> Row:
        mine = best(seed, recipe, tuple(tuple(way.items()) for way in ways))
        kd = best(seed, "kd", tuple((("temperature", t), ("soft", 0.7)) for t in (1.0, 4.0)))
        alone = best(seed, "alone", tuple((("learning_rate", rate),) for rate in (1e-3, 5e-4)))
        return {recipe: score(mine), "kd": score(kd), "alone": score(alone), "teacher": score(mine, role="teacher")}

    return measure


def judge_of(recipe: str) -> Callable[[list[Row]], tuple[bool, str]]:
    """More accurate than KD and than the labels alone."""

    def judge(rows: list[Row]) -> tuple[bool, str]:
        kd, kd_error = paired(rows, recipe, "kd")
        alone, alone_error = paired(rows, recipe, "alone")
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        return kd > 2 * kd_error and alone > 2 * alone_error, (
            f"{recipe} {mean[recipe]:.1f} %, {kd:+.1f} ± {kd_error:.1f} points from KD and {alone:+.1f} ± {alone_error:.1f} "
            f"from the student alone; the teacher has {mean['teacher']:.1f} %."
        )

    return judge
