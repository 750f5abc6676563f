"""Several teachers as one: the log of the weighted mean of their probabilities, or the weighted mean of their values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, ModelError, SignalError
from limbeck.teachers.base import Teacher, as_teacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Part
    from limbeck.tasks.base import Task


class Ensemble(Teacher):
    """The mean of several teachers of one task.

    `teachers`: a list, or a mapping of names to teachers. `weights`: one positive number each (equal by default); they
    are divided by their sum. Signal "logits": log sum_i w_i softmax(logits_i) for classes, [batch, classes];
    sum_i w_i values_i for numbers. Another tap names its teacher first, by name or position: "0.logits", "large.layer3".
    """

    def __init__(self, teachers: Sequence[Any] | Mapping[str, Any], weights: Sequence[float] | None = None):
        named = teachers if isinstance(teachers, Mapping) else {str(i): value for i, value in enumerate(teachers)}
        if not named:
            raise ArgumentError("An ensemble needs at least one teacher.")
        self.teachers: dict[str, Teacher] = {str(name): as_teacher(value) for name, value in named.items()}
        given = [1.0] * len(named) if weights is None else [float(weight) for weight in weights]
        if len(given) != len(named) or not all(0 < weight < math.inf for weight in given):
            raise ArgumentError(
                f"weights={weights!r}: expected {len(named)} positive numbers, one for each teacher of the ensemble."
            )
        self.weights = [weight / sum(given) for weight in given]

    @property
    def stored(self) -> bool:  # type: ignore[override]
        """Whether reading costs nothing: when it does for every teacher."""
        return all(teacher.stored for teacher in self.teachers.values())

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        """The mean "logits", and the taps of single teachers. Each teacher is run once.

        Raises ModelError where the teachers' outputs differ in shape, SignalError for a tap that names no teacher.
        """
        wanted: dict[str, list[str]] = {name: [] for name in self.teachers}
        for tap in taps:
            if tap == "logits":
                continue
            name, _, inner = tap.partition(".")
            if name not in wanted or not inner:
                raise SignalError(
                    f"An ensemble has no tap {tap!r}. Expected 'logits', or a tap of one of its teachers: "
                    + ", ".join(f"'{known}.{tap}'" for known in list(wanted)[:4]) + "."
                )  # fmt: skip
            wanted[name].append(inner)
        mean = "logits" in taps
        signals: dict[str, Any] = {}
        outputs: dict[str, Tensor] = {}
        for name, teacher in self.teachers.items():
            needed = list(dict.fromkeys([*wanted[name], *(["logits"] if mean else [])]))
            if not needed:
                continue
            read = teacher.read(batch, needed, task, progress=progress)
            signals.update({f"{name}.{tap}": read[tap] for tap in wanted[name]})
            if mean:
                outputs[name] = read["logits"].whole() if hasattr(read["logits"], "whole") else read["logits"]
        if mean:
            signals["logits"] = self._mean(outputs, task)
        return signals

    def _mean(self, outputs: dict[str, Tensor], task: Task) -> Tensor:
        from limbeck.tasks.classification import Regression

        shapes = {name: list(value.shape[1:]) for name, value in outputs.items()}
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            told = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
            raise ModelError(f"The teachers of the ensemble differ in their outputs for each sample ({told}).")
        stacked = torch.stack([value.float() for value in outputs.values()])
        weights = torch.tensor(self.weights, device=stacked.device).view(-1, *[1] * (stacked.ndim - 1))
        if isinstance(task, Regression):
            return (stacked * weights).sum(0)
        return torch.logsumexp(stacked.log_softmax(-1) + weights.log(), dim=0)

    def identity(self) -> str:
        """sha256 over the identities and weights of the teachers, in order."""
        digest = hashlib.sha256(b"ensemble")
        for (name, teacher), weight in zip(self.teachers.items(), self.weights):
            digest.update(f"{name} {teacher.identity()} {weight!r}\n".encode())
        return digest.hexdigest()

    def modules(self) -> list[nn.Module]:
        return [module for teacher in self.teachers.values() for module in teacher.modules()]

    def parts(self) -> list[Teacher]:
        return list(self.teachers.values())

    def check(self, data: Any) -> None:
        for teacher in self.teachers.values():
            teacher.check(data)

    def covers(self, part: Part) -> bool:
        return all(teacher.covers(part) for teacher in self.teachers.values())
