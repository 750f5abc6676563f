"""Labels asked for where probabilities leave the most uncovered, beside labels by chance, with a teacher and without."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import limbeck as lb
from limbeck.proving import paired

ROUNDS = (1, 3, 6)
CLAIM = (
    "On digits, over 20, 40 and 70 labels, the mean accuracy of ActiveKD is higher with PCoreSet than with labels asked for by "
    "chance, and higher by chance than that of the same student without the teacher."
)
SEEDS = range(5)
NOTE = (
    "Teacher: a CNN of width 16 trained on all labels; student: mlp:32, 300 steps a round, new in each; 10 queries a round, "
    "one label of each class at first. Without the teacher: CE on as many labels by chance (of each class alike), 300 steps."
)
BUDGET: dict[str, Any] = {"data": "digits", "student": "mlp:32", "steps": 300, "learning_rate": 3e-3, "progress": False}


@functools.cache
def teacher() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lb.distill("alone", **{**BUDGET, "student": "cnn:16"}, measure=False).student


def accuracy(run: Any) -> float:
    return next(model for model in run.record["models"] if model["role"] == "student")["scores"]["accuracy"]["mean"]


def measure(seed: int) -> dict[str, float]:
    row = {}
    for rounds in ROUNDS:
        for selector in ("pcoreset", "random", "badge", "entropy"):
            run = lb.distill(lb.recipes.activekd_pcoreset(selector=selector, rounds=rounds, queries=10), teacher=teacher(),
                             seed=seed, **BUDGET)  # fmt: skip
            row[f"{selector}_{10 + 10 * rounds}"] = accuracy(run)
        alone = lb.distill("alone", labelled=10 + 10 * rounds, seed=seed, **BUDGET)
        row[f"alone_{10 + 10 * rounds}"] = accuracy(alone)
    for name in ("pcoreset", "random", "badge", "entropy", "alone"):
        row[name] = float(np.mean([row[f"{name}_{10 + 10 * rounds}"] for rounds in ROUNDS]))
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    cover, cover_error = paired(rows, "pcoreset", "random")
    taught, taught_error = paired(rows, "random", "alone")
    mean = {name: 100 * float(np.mean([row[name] for row in rows])) for name in rows[0]}
    told = ", ".join(f"{name} {mean[name]:.1f} %" for name in ("pcoreset", "random", "badge", "entropy", "alone"))
    return cover > 2 * cover_error and taught > 2 * taught_error, (
        f"Mean accuracy over 20, 40 and 70 labels: {told}; PCoreSet {100 * cover:+.1f} ± {100 * cover_error:.1f} points over "
        f"chance, the teacher {100 * taught:+.1f} ± {100 * taught_error:.1f}."
    )
