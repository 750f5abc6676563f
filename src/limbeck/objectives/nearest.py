"""Each layer of a student beside whichever layers of the teacher are nearest to it, token by token (MLKD, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.attention import nearest_layers_mse
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class NearestLayers(Term):
    """See `nearest_layers`."""

    def __init__(self, student: Sequence[str], teacher: Sequence[str], nearest: int):
        super().__init__("nearest_layers")
        if not student or not 1 <= nearest <= len(teacher):
            raise ArgumentError(
                f"nearest={nearest} of the teacher's {len(teacher)} layers, for {len(student)} of the student: expected 1 or "
                "more of each, and no more than the teacher has."
            )
        self.ours = [Ref.parse(tap, "self") for tap in student]
        self.theirs = [Ref.parse(tap, "teacher") for tap in teacher]
        self.nearest = nearest
        self.map: nn.Linear | None = None

    def needs(self) -> list[Ref]:
        return [*self.ours, *self.theirs]

    @property
    def is_built(self) -> bool:
        return self.map is not None

    def _states(self, step: Step, refs: Sequence[Ref]) -> Tensor:
        found = [upcast(step.signal(ref)) for ref in refs]
        for ref, value in zip(refs, found, strict=True):
            if value.ndim != 3 or value.shape != found[0].shape:
                raise SignalError(
                    f"{self.name!r} compares layers [batch, tokens, width] of one width; {str(ref)!r} is {list(value.shape)}."
                )
        return torch.stack(found)

    def make(self, step: Step, seed: int) -> None:
        if self.map is None:
            ours, theirs = (self._states(step, refs) for refs in (self.ours, self.theirs))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.map = nn.Linear(theirs.shape[-1], ours.shape[-1]).to(ours.device, ours.dtype)

    def values(self, step: Step) -> Tensor:
        assert self.map is not None
        ours, theirs = self._states(step, self.ours), self._states(step, self.theirs).detach()
        if ours.shape[1:3] != theirs.shape[1:3]:
            raise SignalError(
                f"{self.name!r} compares token by token: the student's states are {list(ours.shape[1:])}, the teacher's "
                f"{list(theirs.shape[1:])}. Give both one tokenizer."
            )
        return nearest_layers_mse(ours, self.map(theirs), nearest=self.nearest)

    def __str__(self) -> str:
        taps = (", ".join(ref.tap for ref in refs) for refs in (self.ours, self.theirs))
        return f"nearest_layers({' > '.join(taps)}, nearest={self.nearest})"


def nearest_layers(*, student: Sequence[str], teacher: Sequence[str], nearest: int = 2) -> NearestLayers:
    """Every layer of the student to the `nearest` of the teacher's, `functional.nearest_layers_mse`. Values [batch, tokens].

    Taps of [batch, tokens, width]. One linear map of the teacher's states, shared by all layers, learns beside the student and
    belongs to the objective. The weights of the layers are fixed at 1: learned ones could shrink to 0.
    """
    return NearestLayers(student, teacher, nearest)
