"""Weights of terms: numbers, schedules of progress (0 at the first step, 1 at the last), or learned."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError


class Weight(nn.Module):
    """Gives (factor, penalty) at a progress: the term counts factor * value + penalty."""

    is_zero = False

    def forward(self, progress: float) -> tuple[float | Tensor, float | Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def __mul__(self, other: float | Weight) -> Weight:
        if not isinstance(other, Weight | int | float):
            return NotImplemented  # an objective, which knows how to be weighed
        other = as_weight(other)
        if isinstance(self, Constant) and isinstance(other, Constant):
            return Constant(self.value * other.value)
        if isinstance(other, Constant) and other.value == 1:
            return self
        if isinstance(self, Constant) and self.value == 1:
            return other
        return Product(self, other)

    __rmul__ = __mul__


class Constant(Weight):
    def __init__(self, value: float):
        super().__init__()
        self.value = float(value)
        if not math.isfinite(self.value):
            raise ArgumentError(f"A weight must be a finite number, not {value!r}.")

    @property
    def is_zero(self) -> bool:  # type: ignore[override]
        return self.value == 0  # such a term is not computed at all: 0 x NaN is NaN

    def forward(self, progress: float) -> tuple[float, float]:
        return self.value, 0.0

    def __str__(self) -> str:
        return f"{self.value:g}"


class Schedule(Weight):
    """A function of progress in [0, 1]."""

    def __init__(self, function: Callable[[float], float], text: str):
        super().__init__()
        self.function, self.text = function, text

    def forward(self, progress: float) -> tuple[float, float]:
        return self.function(progress), 0.0

    def __str__(self) -> str:
        return self.text


class Learned(Weight):
    """exp(-s) * value + s with s learned (uncertainty weighting, Kendall et al. 2018): a bare factor would shrink to 0."""

    def __init__(self, initial: float = 1.0):
        super().__init__()
        if not initial > 0:
            raise ArgumentError(f"A learned weight starts from a positive number, not {initial!r}.")
        self.s = nn.Parameter(torch.tensor([-math.log(initial)]))  # FSDP2 takes no scalars

    def forward(self, progress: float) -> tuple[Tensor, Tensor]:
        s = self.s[0]
        return torch.exp(-s), s

    def __str__(self) -> str:
        return "learned()"


class Product(Weight):
    """The product of two weights; a penalty is scaled by the other's factor."""

    def __init__(self, left: Weight, right: Weight):
        super().__init__()
        if isinstance(left, Learned) and isinstance(right, Learned):
            raise ArgumentError("A term has one learned weight at most; the product of two says nothing more.")
        self.left, self.right = left, right

    @property
    def is_zero(self) -> bool:  # type: ignore[override]
        return self.left.is_zero or self.right.is_zero

    def forward(self, progress: float) -> tuple[float | Tensor, float | Tensor]:
        left, left_penalty = self.left(progress)
        right, right_penalty = self.right(progress)
        return left * right, left_penalty * right + left * right_penalty

    def __str__(self) -> str:
        return f"{self.left} * {self.right}"


def as_weight(value: float | Weight) -> Weight:
    if isinstance(value, Weight):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(f"A weight is a number, a schedule or learned(), not {value!r}.")
    return Constant(value)


def ramp(start: float = 0.0, end: float = 1.0, *, begin: float = 0.0, until: float = 1.0) -> Schedule:
    """Linear from `start` to `end` between the progress `begin` and `until`, constant outside."""
    if not 0 <= begin < until <= 1:
        raise ArgumentError(f"ramp: expected 0 <= begin < until <= 1, got begin={begin!r}, until={until!r}.")

    def value(progress: float) -> float:
        return start + (end - start) * min(max((progress - begin) / (until - begin), 0.0), 1.0)

    where = (f", begin={begin:.3g}" if begin else "") + (f", until={until:.3g}" if until != 1 else "")
    return Schedule(value, f"ramp({start:g}, {end:g}{where})")


def cosine(start: float = 1.0, end: float = 0.0) -> Schedule:
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""
    return Schedule(
        lambda progress: end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress)), f"cosine({start:g}, {end:g})"
    )


def between(begin: float = 0.0, until: float = 1.0, value: float = 1.0) -> Schedule:
    """`value` while begin <= progress < until (and at 1 when until is 1), else 0."""
    return Schedule(
        lambda progress: value if begin <= progress < until or progress == until == 1 else 0.0,
        f"between({begin:g}, {until:g}, {value:g})",
    )


def learned(initial: float = 1.0) -> Learned:
    """A weight that is trained with the student, by uncertainty: exp(-s) * value + s (Kendall et al., 2018)."""
    return Learned(initial)
