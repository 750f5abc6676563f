"""Questions to a weak teacher, drawn so that its mistakes do the least harm."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On digits with a teacher that is right about 85 % of the time, a student that asks it about 150 samples by RAD is more "
    "accurate than one that asks by margin, and than one that asks by chance."
)
SEEDS = range(5)
NOTE = (
    "Teacher: mlp:16 trained on 60 labels; student: mlp:32, 300 steps a round, new in each; 30 questions by chance, then four "
    "rounds of 30. The share of false answers is estimated on the validation part."
)
BUDGET: dict[str, Any] = {
    "data": "digits", "steps": 300, "learning_rate": 3e-3, "progress": False, "valid": 0.15, "student": "mlp:32",
}  # fmt: skip
SELECTORS = ("rad", "margin", "random", "core_set")


@functools.cache
def teacher() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lb.distill(
        "alone", **{**BUDGET, "student": "mlp:16", "labelled": 60, "steps": 150}, seed=7, measure=False
    ).student


def accuracy(run: Any, role: str = "student") -> float:
    return next(model for model in run.record["models"] if model["role"] == role)["scores"]["accuracy"]["mean"]


def measure(seed: int) -> dict[str, float]:
    row = {}
    for selector in SELECTORS:
        recipe = lb.recipes.rad(selector=selector, rounds=4, queries=30, start=30)
        run = lb.distill(recipe, teacher=teacher(), seed=seed, **BUDGET)
        row[selector] = accuracy(run)
    return row | {"teacher": accuracy(run, "teacher")}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    margin, margin_error = paired(rows, "rad", "margin")
    chance, chance_error = paired(rows, "rad", "random")
    mean = {name: 100 * float(np.mean([row[name] for row in rows])) for name in rows[0]}
    told = ", ".join(f"{name} {mean[name]:.1f} %" for name in SELECTORS)
    return margin > 2 * margin_error and chance > 2 * chance_error, (
        f"Accuracy after 150 questions to a teacher of {mean['teacher']:.1f} %: {told}; RAD {100 * margin:+.1f} ± "
        f"{100 * margin_error:.1f} points over margin, {100 * chance:+.1f} ± {100 * chance_error:.1f} over chance."
    )
