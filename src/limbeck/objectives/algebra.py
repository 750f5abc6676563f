"""The algebra: terms, their weights, their sum.

    loss = cross_entropy() + 0.9 * forward_kl(temperature=4) + ramp(0, 1) * mse().on("layer3").projected()

A `Term` gives values, a `Sum` weighs terms. Both are modules, so that what learns in them (projectors, weights) is found
by an optimizer and saved with a checkpoint. Both work in anyone's loop: `objective(student_out, teacher_out, batch)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives.weights import Constant, Weight, as_weight
from limbeck.signals.step import Ref, Step


class Objective(nn.Module):
    """A differentiable measure of student against teacher and/or labels. Objectives add, and scale from the left."""

    def weighted(self) -> list[tuple[Weight, Term]]:
        """The terms with their weights."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its terms are")

    # arithmetic
    def __add__(self, other: Objective) -> Sum:
        if not isinstance(other, Objective):
            return NotImplemented
        return Sum([*self.weighted(), *other.weighted()])

    def __radd__(self, other: object) -> Objective:
        return self if other == 0 else NotImplemented  # so that sum([...]) works

    def __mul__(self, weight: float | Weight) -> Sum:
        factor = as_weight(weight)
        return Sum([(factor * own, term) for own, term in self.weighted()])

    __rmul__ = __mul__

    # what it needs
    @property
    def terms(self) -> list[Term]:
        return [term for _, term in self.weighted()]

    def needs(self) -> list[Ref]:
        """Every signal that is compared, once each."""
        return list(
            dict.fromkeys(ref for weight, term in self.weighted() if not weight.is_zero for ref in term.needs())
        )

    @property
    def additive(self) -> bool:
        """Whether micro-batches may be added: no term with one value per batch."""
        return all(term.per == "item" for weight, term in self.weighted() if not weight.is_zero)

    def build(self, student: Any, teacher: Any = None, batch: Any = None, *, seed: int = 0) -> Objective:
        """Make the learnable parts (projectors) from one batch of outputs. The engine does this by itself."""
        self.prepare(as_step(student, teacher, batch), seed)
        return self

    def prepare(self, step: Step, seed: int = 0) -> None:
        """Make the learnable parts from the shapes of a step's signals."""
        for number, (weight, term) in enumerate(self.weighted()):
            if not weight.is_zero:
                term.make(step, seed + number)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for weight, term in self.weighted():
            if not weight.is_zero and not term.is_built:
                raise SignalError(
                    f"{term.name!r} has a projector that does not exist yet, so that its parameters would be missed. "
                    "Call objective.build(student_out, teacher_out, batch) with one batch first."
                )
        return super().named_parameters(*args, **kwargs)

    # what follows the learning
    @property
    def follows(self) -> bool:
        """Whether a term wants to hear, after every optimizer step, what its value was (see `Term.after`)."""
        return any(type(term).after is not Term.after for term in self.terms)

    def hear(self, values: Mapping[str, float], progress: float) -> None:
        """Tell every term its value over the whole optimizer step, all micro-batches and processes together."""
        names = getattr(self, "names", [term.name for term in self.terms])
        for name, term in zip(names, self.terms, strict=True):
            if name in values:
                term.after(values[name], progress)

    # its value
    def forward(self, student: Any, teacher: Any = None, batch: Any = None, *, progress: float = 0.0) -> Tensor:
        """The loss of one batch, in anyone's loop.

        `student`, `teacher`: a tensor of logits, a model output with `.logits`, or a mapping tap -> tensor.
        `batch`: labels, a mapping with "labels" (and "weight" or "mask"), or a Batch.
        """
        return self.evaluate(as_step(student, teacher, batch, progress))[0]

    def evaluate(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's part of the loss of the whole optimizer step, and the same for every term.

        Added up over micro-batches and processes these are the loss and the terms of the global batch.
        """
        from limbeck.objectives.evaluate import evaluate

        return evaluate(self, step)


class Term(Objective):
    """One measure. Subclasses give `needs()` and `values(step)`.

    `per="item"`: values [batch] or [batch, tokens], averaged over the items that count (`labelled`: those with a label).
    `group`: only the items of these rows, such as the "chosen" answers of pairs; `paired`: it compares both answers of a
    pair. `per="batch"`: one value for the whole batch.
    """

    per: str = "item"
    labelled: bool = False
    group: str | None = None
    paired: bool = False

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def weighted(self) -> list[tuple[Weight, Term]]:
        return [(Constant(1.0), self)]

    def needs(self) -> list[Ref]:
        raise NotImplementedError(f"{type(self).__name__} does not say which signals it needs")

    def values(self, step: Step) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no values")

    def population(self, step: Step, values: Tensor) -> tuple[Tensor | None, float]:
        """Which of its values count in this micro-batch (None: all), and how many in the whole step (`Step.population`)."""
        return step.population("sample" if values.ndim == 1 else "token", self.labelled, self.group)

    def check(self, step: Step) -> None:
        """Raise SignalError where the signals of `step` cannot be compared by this term."""

    @property
    def is_built(self) -> bool:
        return True

    def is_lazy(self, step: Step) -> bool:
        """Whether its logits are lazy, so that it is walked block by block."""
        return False

    def make(self, step: Step, seed: int) -> None:
        """Make what learns, from the shapes of the signals of `step`."""

    def after(self, value: float, progress: float) -> None:
        """Hear what its value was in the step that is done, `progress` that of its beginning: to set its own pace.

        State that this changes belongs into buffers, so that a checkpoint holds it.
        """

    def named(self, name: str) -> Self:
        """The same term under another name in logs and reports."""
        self.name = name
        return self

    def among(self, group: str) -> Self:
        """Only those rows of a batch, and the mean over them: "chosen" or "rejected" answers of preference pairs."""
        if self.per == "batch":
            raise ArgumentError(
                f"{self.name!r} compares the rows of a batch with each other and cannot leave some out."
            )
        self.group, self.name = group, f"{self.name}({group})"
        return self

    def extra_repr(self) -> str:
        return self.name


class Sum(Objective):
    """A weighted sum of terms. Equal names are numbered, so that every term is logged under its own."""

    def __init__(self, weighted: Sequence[tuple[Weight, Term]]):
        super().__init__()
        self._weights = nn.ModuleList(weight for weight, _ in weighted)
        self._terms = nn.ModuleList(term for _, term in weighted)
        seen: dict[str, int] = {}
        self.names: list[str] = []
        for _, term in weighted:
            seen[term.name] = seen.get(term.name, 0) + 1
            self.names.append(term.name if seen[term.name] == 1 else f"{term.name}_{seen[term.name]}")

    def weighted(self) -> list[tuple[Weight, Term]]:
        return list(zip(self._weights, self._terms, strict=True))  # type: ignore[arg-type]

    def describe(self) -> str:
        """The sum as a person would write it."""
        parts = []
        for weight, term in self.weighted():
            text = str(weight)
            parts.append(str(term) if text == "1" else f"{text} * {term}")
        return " + ".join(parts)

    __str__ = describe


def as_step(student: Any, teacher: Any = None, batch: Any = None, progress: float = 0.0) -> Step:
    """A step from plain outputs, for use outside the engine."""
    if isinstance(student, Step):
        return student
    mine = _outputs(student, "student")
    step = Step(_batch(batch, next(iter(mine.values()))), progress)
    step.put("self", mine)
    step.put("student", mine)
    if teacher is not None:
        step.put("teacher", _outputs(teacher, "teacher"))
    return step


def _outputs(value: Any, role: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    logits = getattr(value, "logits", value)
    if isinstance(logits, Tensor) or hasattr(logits, "whole"):
        return {"logits": logits}
    raise SignalError(
        f"The {role}'s output is a {type(value).__name__}. Expected a tensor of logits, an output with .logits, or a "
        "mapping from tap to tensor."
    )


def _batch(value: Any, like: Any) -> Batch:
    if isinstance(value, Batch):
        return value
    ids = torch.arange(len(like))
    if value is None or isinstance(value, Tensor):
        return Batch(None, ids, value)
    if isinstance(value, Mapping):
        extra = {"mask": value["mask"]} if "mask" in value else {}
        return Batch(None, ids, value.get("labels"), value.get("weight"), extra=extra)
    raise SignalError(f"The batch is a {type(value).__name__}. Expected labels, a mapping with 'labels', or a Batch.")
