"""Teachers of rankers: scores that stand in the data, and several models whose scores are brought to one scale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.data.splits import spread, take
from limbeck.errors import ArgumentError, ModelError, SignalError
from limbeck.teachers.base import Teacher
from limbeck.teachers.ensemble import Ensemble

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Data
    from limbeck.tasks.base import Task

SAMPLE = 1000  # rows from which a teacher's mean and deviation are taken


class GivenScores(Teacher):
    """The teacher's scores that stand in the data, in the column scores. On the command line: teacher=scores."""

    stored = True

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        if "scores" not in batch.extra or list(taps) != ["scores"]:
            raise SignalError(f"The data give scores of their candidates, or none; asked for were {list(taps)}.")
        return {"scores": batch.extra["scores"].to(batch.ids.device)}

    def identity(self) -> str:
        return "scores of the data"

    def check(self, data: Any) -> None:
        """Raise where rows have no scores."""
        if any(getattr(part, "scores", None) is None for part in data.parts.values()):
            raise ArgumentError(
                f"teacher=scores: the data {data.name!r} have no column scores, with a number for each candidate. Give one, or "
                "a model as teacher."
            )


class ScoreEnsemble(Ensemble):
    """Several rankers as one: the weighted mean of their scores, each less its mean and over its deviation.

    Signal "scores" [batch, candidates]. Mean and deviation are those of each teacher's scores of up to 1,000 training rows,
    so that no teacher counts for more because its scores are larger.
    """

    def __init__(self, ensemble: Ensemble, data: Data, task: Any):
        super().__init__(ensemble.teachers, ensemble.weights)
        ensemble.check(data)
        part = take(data.train, spread(len(data.train), SAMPLE), "train")
        found = {name: task.scored(teacher, part) for name, teacher in self.teachers.items()}
        self.scales = {name: (float(scores.mean()), float(scores.std())) for name, scores in found.items()}
        for name, (_, deviation) in self.scales.items():
            if not deviation > 0:
                raise ModelError(f"The teacher {name!r} of the ensemble gives every candidate the same score.")

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        signals = super().read(batch, [tap for tap in taps if tap != "scores"], task, progress=progress)
        if "scores" in taps:
            mean: Any = 0.0
            for weight, (name, teacher) in zip(self.weights, self.teachers.items()):
                centre, deviation = self.scales[name]
                scores = teacher.read(batch, ["scores"], task, progress=progress)["scores"].float()
                mean = mean + weight * (scores - centre) / deviation
            signals["scores"] = mean
        return signals

    def identity(self) -> str:
        return hashlib.sha256(f"{super().identity()} {self.scales!r}".encode()).hexdigest()
