"""What every formula shares: its declaration, and the reduction of its values.

A formula is a pure function of tensors. `@objective` writes beside it what signals it needs and whether it is additive:

- `per="item"`: one value for each row of the signal, `[batch]` or `[batch, tokens]`. Additive, so accumulation and
  several processes change nothing once the values are divided by the global count.
- `per="batch"`: one value for a whole batch (relations, correlations). Not additive over micro-batches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

from limbeck.errors import SignalError

Reduction = Literal["mean", "sum", "none"]
Per = Literal["item", "batch"]
UNLABELLED = -100

F = TypeVar("F", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Declaration:
    """What a formula needs. `inputs` are its positional parameters, in order: student, teacher and/or labels.

    `unlabelled` is "drop" where a formula with labels leaves out items that have none, "keep" where it has a value
    for them too. `sparse`: its teacher may also be what a store kept of one, of which it asks `largest(k)`.
    """

    name: str
    per: Per
    inputs: tuple[str, ...]
    student: str | None
    teacher: str | None
    options: dict[str, Any]
    unlabelled: str = "drop"
    sparse: bool = False

    @property
    def labels(self) -> bool:
        return "labels" in self.inputs


def objective(
    *,
    per: Per,
    student: str | None = None,
    teacher: str | None = None,
    unlabelled: Literal["drop", "keep"] = "drop",
    sparse: bool = False,
) -> Callable[[F], F]:
    """Declare a pure function as a formula of distillation.

    `student` and `teacher` name the signal each side compares: `"logits"`, or `"features"` where the user must say
    which tap. The positional parameters of the function must be called `student`, `teacher`, `labels`.
    """

    def declare(function: F) -> F:
        parameters = inspect.signature(function).parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        inputs = tuple(p.name for p in parameters if p.kind in positional)
        unknown = set(inputs) - {"student", "teacher", "labels"}
        if unknown:
            raise TypeError(
                f"{function.__name__}: positional parameters must be student, teacher or labels, not {sorted(unknown)}"
            )
        options = {
            p.name: p.default for p in parameters
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in ("mask", "reduction")
        }  # fmt: skip
        declaration = Declaration(
            function.__name__, per, inputs,
            student or ("logits" if "student" in inputs else None),
            teacher or ("logits" if "teacher" in inputs else None), options, unlabelled, sparse,
        )  # fmt: skip
        function.declaration = declaration  # type: ignore[attr-defined]
        return function

    return declare


def reduce(values: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce values [...], one per item, to a scalar or to [...].

    `mask` [...] weighs the items (0 drops one, even where its value is NaN).

    `"mean"` divides by the sum of the mask (0 when the mask is empty), `"sum"` adds, `"none"` returns values * mask.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r}: choose one of 'mean', 'sum', 'none'")
    if mask is None:
        return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values
    weight = mask.to(values.dtype).expand_as(values)
    values = values.where(weight != 0, 0) * weight
    if reduction == "none":
        return values
    return values.sum() / weight.sum().clamp(min=1e-12) if reduction == "mean" else values.sum()


def same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals [batch, ...] as they are, the teacher's detached.

    Raises SignalError, naming the projector that would help, where shapes differ: torch would stretch one to the other
    silently, or fail with less to go by.
    """
    if student.shape != teacher.shape:
        kind = "conv" if student.ndim == 4 else "linear"
        alike = student.ndim == teacher.ndim
        way = f"Put a learned projector between, .projected({kind!r})" if alike else "Tap layers of one kind"
        raise SignalError(
            f"This compares signals of one shape; the student's is {list(student.shape)}, the teacher's "
            f"{list(teacher.shape)}. {way}, or compare relations: rkd, pkt, cka."
        )
    return student, teacher.detach()


def labelled(labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mask [...] of items whose label [...] is not `UNLABELLED`, combined with `mask` [...]."""
    valid = labels != UNLABELLED
    return valid if mask is None else valid * mask
