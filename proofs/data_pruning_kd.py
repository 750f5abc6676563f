"""Half of the data with a teacher, beside all of it without one; and what a score of hardness costs where little is kept."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On digits, KD on half of the samples by chance is no worse than 0.3 points below plain training on all; where a tenth is "
    "kept, plain training loses by keeping the hardest, and with a teacher it loses less than half as much."
)
SEEDS = range(5)
NOTE = (
    "Teacher: a CNN of width 16 trained on all labels; student: mlp:32, 600 steps for every share. Plain training is the same "
    "recipe with soft=0. The hardest are those of largest EL2N by a network of 120 steps."
)
BUDGET: dict[str, Any] = {"data": "digits", "student": "mlp:32", "steps": 600, "learning_rate": 3e-3, "progress": False}


@functools.cache
def teacher() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lb.distill("alone", **{**BUDGET, "student": "cnn:16"}, measure=False).student


def measure(seed: int) -> dict[str, float]:
    row = {}
    for name, options in {
        "kd_half": {"fraction": 0.5}, "plain_all": {"fraction": 1.0, "soft": 0.0},
        "plain_chance": {"fraction": 0.1, "soft": 0.0}, "plain_hard": {"fraction": 0.1, "soft": 0.0, "score": "el2n"},
        "kd_chance": {"fraction": 0.1}, "kd_hard": {"fraction": 0.1, "score": "el2n"},
    }.items():  # fmt: skip
        run = lb.distill(lb.recipes.data_pruning_kd(**options), teacher=teacher(), seed=seed, **BUDGET)
        scores = next(model for model in run.record["models"] if model["role"] == "student")["scores"]
        row[name] = scores["accuracy"]["mean"]
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    half, half_error = paired(rows, "kd_half", "plain_all")
    plain, plain_error = paired(rows, "plain_chance", "plain_hard")
    taught, taught_error = paired(rows, "kd_chance", "kd_hard")
    mean = {name: 100 * float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return half >= -0.003 and plain > 2 * plain_error and taught < plain / 2, (
        f"KD on half {mean['kd_half']:.1f} %, plain on all {mean['plain_all']:.1f} % ({100 * half:+.1f} ± "
        f"{100 * half_error:.1f} points). Of a tenth, by chance rather than the hardest: plain {mean['plain_chance']:.1f} and "
        f"{mean['plain_hard']:.1f} % ({100 * plain:+.1f} ± {100 * plain_error:.1f}), KD "
        f"{mean['kd_chance']:.1f} and {mean['kd_hard']:.1f} % ({100 * taught:+.1f} ± {100 * taught_error:.1f})."
    )
