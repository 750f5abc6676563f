"""What a student's layer tells about a teacher's, by a critic that learns beside it (MI-alpha)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.information import information_bound
from limbeck.functional.transforms import pooled
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Critic(nn.Module):
    """Scores of all pairs of a batch, the inner products of two small networks, and a baseline of the teacher's vectors."""

    def __init__(self, student: int, teacher: int, width: int):
        super().__init__()
        self.student, self.teacher = (_network(inputs, width, width) for inputs in (student, teacher))
        self.baseline = _network(teacher, width, 1)
        self.scale = width**-0.5

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [K, width] of both: scores [K, K], a row for each of the teacher's, and log q [K]."""
        return self.teacher(teacher) @ self.student(student).T * self.scale, self.baseline(teacher)[:, 0]


def _network(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class MutualInformation(Term):
    """See `mutual_information`."""

    per = "batch"

    def __init__(self, student: str, teacher: str, alpha: float, width: int):
        super().__init__(f"mutual_information({student})")
        if not 0 <= alpha <= 1:
            raise ArgumentError(f"alpha={alpha!r}: expected from 0 to 1.")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.alpha, self.width = alpha, width
        self.critic: Critic | None = None

    def needs(self) -> list[Ref]:
        return self.refs

    @property
    def is_built(self) -> bool:
        return self.critic is not None

    def make(self, step: Step, seed: int) -> None:
        if self.critic is not None:
            return
        ours, theirs = self._vectors(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = Critic(ours.shape[1], theirs.shape[1], self.width).to(ours.device, ours.dtype)

    def _vectors(self, step: Step) -> list[Tensor]:
        found = [upcast(step.signal(ref)) for ref in self.refs]
        for ref, value in zip(self.refs, found):
            if value.ndim not in (2, 3, 4):
                raise SignalError(f"{self.name!r} takes vectors, tokens or maps; {str(ref)!r} is {list(value.shape)}.")
        return [pooled(found[0]), pooled(found[1]).detach()]

    def values(self, step: Step) -> Tensor:
        assert self.critic is not None
        given = self._vectors(step)
        if step.gather is not None:
            given = step.gather(given)
        elif step.batch.weight is not None:
            given = [value[step.batch.weight > 0] for value in given]
        return -information_bound(*self.critic(*given), alpha=self.alpha)

    def __str__(self) -> str:
        return f"mutual_information({self.refs[0].tap} > {self.refs[1].tap}, alpha={self.alpha:g})"


def mutual_information(student: str, teacher: str, *, alpha: float = 0.9, width: int = 128) -> MutualInformation:
    """Minus a lower bound of what a student's layer tells about the teacher's, in nats; a scalar that may be below 0.

    `student`, `teacher`: taps of vectors [batch, width], tokens or maps, which are pooled. The critic is the inner product of
    two networks of one hidden layer of `width`, the baseline another one of the teacher's vector; they learn beside the
    student and belong to the objective. `alpha`: see `functional.information_bound`. Not additive: it compares all pairs of a
    batch, and wants a large one.
    """
    return MutualInformation(student, teacher, alpha, width)
