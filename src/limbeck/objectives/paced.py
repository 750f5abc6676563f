"""A target that moves from the student to the teacher at the pace of the learning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from limbeck.functional.pace import InterpolationPace
from limbeck.functional.tokens import interpolated_cross_entropy as formula
from limbeck.objectives.formula import Formula


class PacedTarget(Formula):
    """`interpolated_cross_entropy` whose share of the teacher follows an `InterpolationPace`, step by step.

    The pace's state [share, momentum, previous loss] is a buffer, so that a resumed run goes on at the same pace.
    """

    def __init__(self, pace: InterpolationPace, temperature: float = 1.0):
        super().__init__(formula, {"temperature": temperature})
        self.pace = pace
        self.state: torch.Tensor
        self.register_buffer("state", torch.tensor([pace.start, 0.0, torch.nan], dtype=torch.float64))

    @property
    def options(self) -> dict[str, Any]:  # type: ignore[override]
        return {**self._options, "share": float(self.state[0])}

    @options.setter
    def options(self, options: dict[str, Any]) -> None:
        self._options = options

    def after(self, value: float, progress: float) -> None:
        share, momentum, previous = self.state.tolist()
        now = replace(self.pace, share=share, momentum=momentum, previous=None if previous != previous else previous)
        now = now.after(value, progress)
        self.state.copy_(torch.tensor([now.share, now.momentum, now.previous], dtype=torch.float64))

    def __str__(self) -> str:
        pace = self.pace
        return f"paced_target({pace.start:g} to {pace.end:g}, {'adaptive' if pace.adaptive else 'linear'})"


def paced_target(*, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99, adaptive: bool = True,
                 temperature: float = 1.0) -> PacedTarget:  # fmt: skip
    """Cross-entropy with softmax((1 - share) z_S + share z_T), the share going from `start` to `end` (TAID's pace)."""
    return PacedTarget(InterpolationPace(start, end, alpha, beta, adaptive), temperature)
