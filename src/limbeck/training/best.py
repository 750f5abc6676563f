"""Which weights are kept: those with the best score so far, and when it is time to give up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.students.adapters import load_trained, trained_state
from limbeck.training.settings import Settings

SMALLER = (
    "loss",
    "nll",
    "brier",
    "ece",
    "mse",
    "mae",
    "rmse",
    "perplexity",
    "bits_per_byte",
)  # the scores of which less is better


class Best:
    """The best scores and weights of a stage. `weights` is empty before the first evaluation."""

    def __init__(self, settings: Settings, default: tuple[str, str]):
        self.name, sense = default
        if settings.best and settings.best != "last":
            self.name, sense = settings.best, "min" if settings.best in SMALLER else "max"
        self.sign = 1.0 if sense == "max" else -1.0
        self.patience, self.wanted = settings.patience, settings.best != "last"
        self.weights: dict[str, Tensor] = {}
        self.score: float | None = None
        self.step, self.worse = 0, 0

    def offer(self, scores: dict[str, float], module: nn.Module, step: int) -> bool:
        """Take the weights if they are the best so far; returns whether patience is at an end."""
        if self.name not in scores:
            raise ArgumentError(f"best={self.name!r} is not a score of this task; it has {sorted(scores)}.")
        value = self.sign * scores[self.name]
        if self.score is None or value > self.score:
            self.score, self.step, self.worse = value, step, 0
            # "meta" are those that the first process keeps for all
            state = trained_state(module).items()
            self.weights = {key: t if t.is_meta else t.detach().cpu().clone() for key, t in state}
        else:
            self.worse += 1
        return self.patience is not None and self.worse >= self.patience

    @torch.no_grad()
    def put_into(self, module: nn.Module) -> None:
        """The best weights into a module, where they are wanted and there are any."""
        if self.wanted and self.weights:
            load_trained(module, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """All but the weights, which a checkpoint keeps in a file of their own."""
        return {"score": self.score, "step": self.step, "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.score, self.step, self.worse = state["score"], state["step"], state["worse"]
        self.weights = weights
