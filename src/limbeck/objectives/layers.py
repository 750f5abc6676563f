"""Layers of a language model that choose, token by token, whom of the teacher's layers they follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.attention import nearest_layers_mse
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.objectives.projectors import projector
from limbeck.signals.step import Ref, Step


class NearestLayers(Term):
    """See `nearest_layers`."""

    def __init__(self, student: Sequence[str], teacher: Sequence[str], nearest: int):
        super().__init__("nearest_layers")
        if not student or not teacher or nearest < 1:
            raise ArgumentError(
                f"nearest_layers: {len(student)} layers of the student, {len(teacher)} of the teacher, nearest={nearest}: "
                "expected one or more of each."
            )
        self.ours = [Ref.parse(tap, "self") for tap in student]
        self.theirs = [Ref.parse(tap, "teacher") for tap in teacher]
        self.nearest = nearest
        self.projector: nn.Module | None = None

    def needs(self) -> list[Ref]:
        return [*self.ours, *self.theirs]

    @property
    def is_built(self) -> bool:
        return self.projector is not None

    def make(self, step: Step, seed: int) -> None:
        if self.projector is None:
            student, teacher = upcast(step.signal(self.ours[0])), upcast(step.signal(self.theirs[0]))
            self.projector = projector("linear", tuple(teacher.shape), tuple(student.shape), seed)
            self.projector.to(student.device, student.dtype)

    def values(self, step: Step) -> Tensor:
        assert self.projector is not None
        teachers = torch.stack([upcast(step.signal(ref)).detach() for ref in self.theirs])
        students = [upcast(step.signal(ref)) for ref in self.ours]
        if students[0].ndim != 3 or students[0].shape[:2] != teachers.shape[1:3]:
            raise SignalError(
                f"{self.name!r} compares tokens [batch, tokens, width]; the student's layer is {list(students[0].shape)}, the "
                f"teacher's {list(teachers.shape[1:])}: tap layers of models with one tokenizer."
            )
        mapped = self.projector(teachers)
        return torch.stack([nearest_layers_mse(one, mapped, nearest=self.nearest) for one in students]).sum(0)

    def __str__(self) -> str:
        return f"nearest_layers({', '.join(ref.tap for ref in self.ours)}, nearest={self.nearest})"


def nearest_layers(student: Sequence[str], teacher: Sequence[str], *, nearest: int = 2) -> NearestLayers:
    """For each token and layer of the student, MSE to the `nearest` of the teacher's layers, added. Values [batch, tokens].

    `student`, `teacher`: taps of hidden states [batch, tokens, width]. ONE linear map to the student's width, which is learned
    beside it, stands behind all of the teacher's layers. See `functional.nearest_layers_mse`.
    """
    return NearestLayers(student, teacher, nearest)
