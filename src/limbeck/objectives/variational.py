"""What the student's layer tells about the teacher's, as a normal density that learns (VID)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.maps import gaussian_nll, of_one_size
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Density(nn.Module):
    """The mean by three 1x1 convolutions, and a variance for each channel that does not depend on the input."""

    def __init__(self, inputs: int, outputs: int, variance: float, eps: float):
        super().__init__()
        layers = [nn.Conv2d(width, outputs, 1, bias=False) for width in (inputs, outputs, outputs)]
        self.mean = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.scale = nn.Parameter(torch.full((outputs,), math.log(math.expm1(variance - eps))))
        self.eps = eps

    @property
    def variance(self) -> Tensor:
        """[channels], above 0."""
        return F.softplus(self.scale) + self.eps


class VariationalInformation(Term):
    """See `variational_information`."""

    def __init__(self, student: str, teacher: str, variance: float, eps: float = 1e-5):
        super().__init__(f"variational_information({student})")
        if not variance > eps:
            raise ArgumentError(f"variance={variance!r}: expected more than {eps:g}.")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.variance, self.eps = variance, eps
        self.density: Density | None = None

    def needs(self) -> list[Ref]:
        return self.refs

    @property
    def is_built(self) -> bool:
        return self.density is not None

    def make(self, step: Step, seed: int) -> None:
        if self.density is not None:
            return
        ours, theirs = self._maps(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.density = Density(ours.shape[1], theirs.shape[1], self.variance, self.eps).to(ours.device, ours.dtype)

    def _maps(self, step: Step) -> tuple[Tensor, Tensor]:
        ours, theirs = (upcast(step.signal(ref)) for ref in self.refs)
        for ref, value in zip(self.refs, (ours, theirs)):
            if value.ndim not in (2, 4):
                raise SignalError(
                    f"{self.name!r} takes maps [batch, channels, height, width] and vectors; {str(ref)!r} is "
                    f"{list(value.shape)}."
                )
        ours, theirs = (value if value.ndim == 4 else value[:, :, None, None] for value in (ours, theirs))
        return of_one_size(ours, theirs.detach())

    def values(self, step: Step) -> Tensor:
        assert self.density is not None
        ours, theirs = self._maps(step)
        return gaussian_nll(self.density.mean(ours), theirs, self.density.variance)

    def __str__(self) -> str:
        return f"variational_information({self.refs[0].tap} > {self.refs[1].tap})"


def variational_information(student: str, teacher: str, *, variance: float = 5.0) -> VariationalInformation:
    """-log of a normal density of the teacher's layer given the student's, whose mean and variances learn. Values [batch].

    `student`, `teacher`: taps of maps [batch, channels, height, width] or vectors [batch, width]; the higher map is
    average-pooled first. The mean is three 1x1 convolutions with ReLU of the student's map, the variance one learned number for
    each of the teacher's channels, `variance` at first (VID, Ahn et al., 2019). The mean over a sample's elements. Additive.
    """
    return VariationalInformation(student, teacher, variance)
