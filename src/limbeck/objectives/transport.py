"""Many layers with many: each pair counts by how much of it the cheapest transport between both stacks moves (BERT-EMD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.functional.transport import transport_plan
from limbeck.objectives.algebra import Term
from limbeck.signals.step import Ref, Step


class Transported(Term):
    """See `transported`."""

    per = "batch"

    def __init__(self, terms: Sequence[Sequence[Term]]):
        super().__init__("transported")
        if not terms or not terms[0] or len({len(row) for row in terms}) > 1:
            raise ArgumentError(
                "transported: expected a row of terms for each layer of the student, all of one length."
            )
        self.shape = len(terms), len(terms[0])
        self.pairs = nn.ModuleList(term for row in terms for term in row)

    @property
    def each(self) -> list[Term]:
        return list(self.pairs)  # type: ignore[arg-type]

    def needs(self) -> list[Ref]:
        return list(dict.fromkeys(ref for term in self.each for ref in term.needs()))

    @property
    def is_built(self) -> bool:
        return all(term.is_built for term in self.each)

    def check(self, step: Step) -> None:
        for term in self.each:
            term.check(step)

    def make(self, step: Step, seed: int) -> None:
        for number, term in enumerate(self.each):
            term.make(step, seed + number)

    def values(self, step: Step) -> Tensor:
        # in several processes each finds the plan of its own part
        found = [_mean(term.values(step), step.batch.weight) for term in self.each]
        costs = torch.stack(found).reshape(self.shape)
        return (transport_plan(costs) * costs).sum()

    def __str__(self) -> str:
        return f"transported({self.shape[0]} x {self.shape[1]} of {self.each[0]})"


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if values.ndim == 0 or weight is None:
        return values.mean()
    return values[weight > 0].mean()


def transported(terms: Sequence[Sequence[Term]]) -> Transported:
    """The earth mover's distance between the student's layers and the teacher's; a scalar.

    `terms`: for each layer of the student a row of measures, one against each layer of the teacher: their means over the batch
    are the costs. The plan (see `functional.transport_plan`) is found anew in every step and has no gradient. Not additive.
    """
    return Transported(terms)
