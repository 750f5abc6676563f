"""How much of each domain a student is given: more of those in which it lags behind its teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from limbeck.errors import ArgumentError
from limbeck.functional.pace import Kept


def discrepancies(student: Sequence[float], teacher: Sequence[float]) -> tuple[float, ...]:
    """The student's perplexity over the teacher's in every domain, divided by the sum of these ratios: [domains], sum 1.

    `student`, `teacher` [domains]: cross-entropies in nats per token on the domains' validation samples. As
    exp(s) / exp(t) = exp(s - t), this is softmax(s - t). Raises ArgumentError where they do not meet or are not finite.
    Source: DDK (Liu et al., 2024).
    """
    if len(student) != len(teacher) or not student:
        raise ArgumentError(f"{len(student)} cross-entropies of the student and {len(teacher)} of the teacher.")
    gaps = [s - t for s, t in zip(student, teacher)]
    if not all(map(math.isfinite, gaps)):
        raise ArgumentError(f"Cross-entropies must be finite: student {list(student)}, teacher {list(teacher)}.")
    ratios = [math.exp(gap - max(gaps)) for gap in gaps]
    return tuple(ratio / sum(ratios) for ratio in ratios)


@dataclass(frozen=True)
class DomainMixture(Kept):
    """The share of every domain in the batches: (1 - uniform) d + uniform / N, d a running mean of `discrepancies`.

    What is measured moves the running mean by 1 - smoothing (the first measurement sets it), because few validation
    samples make it jump; `uniform` keeps every domain alive, and 1 makes the mixture one without regard to the student.
    Source: DDK (Liu et al., 2024); the paper smooths too, but its formula and constants could not be checked: these are ours.
    """

    uniform: float = 0.3
    smoothing: float = 0.5
    # the state
    discrepancy: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.uniform <= 1 or not 0 <= self.smoothing < 1:
            raise ArgumentError(
                f"uniform={self.uniform!r}, smoothing={self.smoothing!r}: expected numbers from 0 to 1, smoothing below 1."
            )
        object.__setattr__(self, "discrepancy", tuple(self.discrepancy))  # a checkpoint gives a list

    def after(self, student: Sequence[float], teacher: Sequence[float]) -> DomainMixture:
        """The mixture once these cross-entropies [domains] are known."""
        found = discrepancies(student, teacher)
        if self.discrepancy:
            if len(found) != len(self.discrepancy):
                raise ArgumentError(f"{len(found)} domains, and there were {len(self.discrepancy)}.")
            kept = self.smoothing
            found = tuple(kept * old + (1 - kept) * new for old, new in zip(self.discrepancy, found))
        return replace(self, discrepancy=found)

    @property
    def weights(self) -> tuple[float, ...]:
        """[domains], sum 1; empty before the first measurement."""
        return tuple((1 - self.uniform) * d + self.uniform / len(self.discrepancy) for d in self.discrepancy)


def apportion(weights: Sequence[float], size: int, offset: float) -> list[int]:
    """How many of `size` samples each domain gives: within one of weights * size, and just that in the mean over offsets.

    `weights` [domains], sum 1; `offset` from [0, 1) is what is drawn (systematic sampling): domain i gets the whole
    numbers n with n + offset in its stretch of the line from 0 to `size`.
    """
    if not 0 <= offset < 1:
        raise ArgumentError(f"offset={offset!r}: expected a number from 0 to 1, 1 excluded.")
    ends, total = [], 0.0
    for weight in weights:
        total += weight
        ends.append(total)
    reached = [min(size, max(0, math.ceil(end / total * size - offset))) for end in ends[:-1]] + [size]
    return [end - start for start, end in zip([0, *reached], reached)]
