"""How stages lead on to each other, in the student as in the teacher (FSP)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.features import feature_mse
from limbeck.functional.maps import solution_flow
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.objectives.projectors import projector
from limbeck.signals.step import Ref, Step


class Flow(Term):
    """See `flow`."""

    def __init__(self, student: Sequence[str], teacher: Sequence[str]):
        super().__init__("flow")
        if len(student) != len(teacher) or len(student) < 2:
            raise ArgumentError(
                f"flow: {len(student)} taps of the student and {len(teacher)} of the teacher; give as many, 2 or more."
            )
        self.student, self.teacher = ([Ref.parse(tap, role) for tap in taps]
                                      for taps, role in ((student, "self"), (teacher, "teacher")))  # fmt: skip

        self.projectors = nn.ModuleList()

    def needs(self) -> list[Ref]:
        return [*self.student, *self.teacher]

    @property
    def is_built(self) -> bool:
        return bool(self.projectors)

    def make(self, step: Step, seed: int) -> None:
        if self.projectors:
            return
        for number, (ours, theirs) in enumerate(zip(self._maps(step, self.student), self._maps(step, self.teacher))):
            # channels alone: sizes are met by pooling, as between the stages
            wanted = (1, theirs.shape[1], *ours.shape[2:])
            made = projector("needed", (1, *ours.shape[1:]), wanted, seed + number)
            self.projectors.append(made.to(ours.device, ours.dtype))

    def _maps(self, step: Step, refs: Sequence[Ref]) -> list[Tensor]:
        found = [upcast(step.signal(ref)) for ref in refs]
        for ref, value in zip(refs, found):
            if value.ndim != 4:
                raise SignalError(
                    f"{self.name!r} compares maps [batch, channels, height, width]; {str(ref)!r} is {list(value.shape)}. For "
                    "vectors and tokens compare relations: rkd, cka."
                )
        return found

    def values(self, step: Step) -> Tensor:
        theirs = self._maps(step, self.teacher)
        ours = [layer(maps) for layer, maps in zip(self.projectors, self._maps(step, self.student), strict=True)]
        gaps = [
            feature_mse(solution_flow(*both), solution_flow(*target), reduction="none")
            for both, target in zip(pairwise(ours), pairwise(theirs))
        ]
        return torch.stack(gaps).sum(0)

    def __str__(self) -> str:
        return f"flow({', '.join(f'{a.tap} > {b.tap}' for a, b in zip(self.student, self.teacher))})"


def flow(*, student: Sequence[str], teacher: Sequence[str]) -> Flow:
    """Sum over consecutive stages of the MSE between the two models' solution flows. Values [batch].

    `student`, `teacher`: taps of maps [batch, channels, height, width], from shallow to deep, in pairs; see
    `functional.solution_flow` (FSP, Yim et al., 2017). Where channels differ, which the paper does not have, the student's maps
    go through a learned 1x1 convolution first, which belongs to the objective. Additive over samples.
    """
    return Flow(student, teacher)
