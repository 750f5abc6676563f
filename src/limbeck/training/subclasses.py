"""LELP's targets (2024): the teacher's classes split in its embedding space, before the student is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.subclasses import subclass_directions, subclass_log_probabilities
from limbeck.functional.transforms import pooled
from limbeck.signals.step import Ref, Step
from limbeck.tasks.base import Task
from limbeck.teachers.base import ModuleTeacher, Teacher
from limbeck.teachers.live import Derived
from limbeck.training.inside import classifier, signals_of_train

if TYPE_CHECKING:
    from limbeck.training.job import Job


class Subclasses(Derived):
    """The teacher's subclass log-probabilities as the logits of a role of their own."""

    def __init__(self, tap: str, centres: Tensor, directions: Tensor, temperature: float):
        self.tap, self.centres, self.directions, self.temperature = tap, centres, directions, temperature

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return [Ref("teacher", "logits"), Ref("teacher", self.tap)]

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        logits, embeddings = (step.signal(ref).detach().float() for ref in self.sources(taps))
        self.centres, self.directions = (each.to(logits.device) for each in (self.centres, self.directions))
        found = subclass_log_probabilities(logits, pooled(embeddings), self.centres, self.directions,
                                           temperature=self.temperature)  # fmt: skip
        return dict.fromkeys(taps, found)


def split_classes(job: Job, layer: str, count: int, temperature: float) -> tuple[Teacher, Subclasses]:
    """The teacher to train with, and the role of its subclasses, found over the training part.

    `layer`: where the teacher's embeddings are, "auto" for what its classifier is given. A teacher that always sees the same
    inputs is run once and read from then on. A sample's class is its label, or the teacher's answer where it has none.
    """
    if count < 2:
        raise ArgumentError(f"subclasses={count}: expected 2 or more; one to a class is kd.")
    assert job.teacher is not None
    if layer == "auto" and not isinstance(job.teacher, ModuleTeacher):
        raise ArgumentError(
            "The embeddings of a teacher that is no module have to be named: teacher_layer=, a signal that it gives."
        )
    tap = f"{classifier(job, 'teacher')}#input" if layer == "auto" else layer
    train, teacher = job.data.train, job.teacher
    if train.augmentation is None:
        stored = job.stored("logits", tap)
        assert stored is not None
        teacher = stored
    signals = signals_of_train(job, teacher, ["logits", tap])
    logits, embeddings = signals["logits"], signals[tap]
    if embeddings.ndim != 2:
        raise SignalError(f"teacher_layer={tap!r} gives {list(embeddings.shape)}; embeddings are [batch, width].")
    classes = logits.argmax(1)
    if train.labels is not None:
        classes = torch.where(train.is_labelled(), train.labels, classes)
    few = int((classes.bincount(minlength=logits.shape[1]) <= count // 2).sum())
    if few:
        job.warn(
            f"{few} of {logits.shape[1]} classes have too few samples for {count} subclasses: fewer tell them apart."
        )
    centres, directions = subclass_directions(embeddings, classes, count, logits.shape[1])
    return teacher, Subclasses(tap, centres, directions, temperature)
