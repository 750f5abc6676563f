"""What the proofs on digits share: a good teacher, a small student, one budget, and scores on the test part."""

from __future__ import annotations

import functools
from typing import Any

import torch

import limbeck as lb

torch.set_num_threads(1)
STUDENT = "mlp:32"
BUDGET = {"steps": 1500, "batch_size": 64, "learning_rate": 3e-3}


def trained(recipe: Any, *, seed: int, data: Any = "digits", student: str = STUDENT, **options: Any) -> lb.Run:
    """One run in memory, without measuring cost. `seed` moves the split, the kept labels, the weights and the order."""
    options = {**BUDGET, **options}
    return lb.distill(recipe, data=data, student=student, seed=seed, measure=False, progress=False, **options)


@functools.cache
def teacher(seed: int) -> torch.nn.Module:
    """A convolutional network trained on all training labels of digits."""
    return trained("alone", seed=seed, student="cnn(width=32, depth=3)", steps=700).student


def score(run: lb.Run, name: str = "accuracy", role: str = "student") -> float:
    """A score of the run on its test part, in percent where it is a share."""
    model = next(model for model in run.record["models"] if model["role"] == role)
    value = {**model["scores"], **model["agreement"]}[name]["mean"]
    return 100 * value if name not in ("nll", "brier") else value


def valid_accuracy(run: lb.Run) -> float:
    """The best accuracy on the validation part: what may be tuned on."""
    return 100 * max(run.record["scores_over_time"]["accuracy"]["value"])
