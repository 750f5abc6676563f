"""Where in a job's models a recipe looks: their last stages, the values before a stage's activation, the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.functional.transforms import pooled
from limbeck.signals.order import before_activation, classifier_of
from limbeck.signals.stages import stages
from limbeck.teachers.base import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.training.job import Job

AT_ONCE = 256


def module_of(job: Job, role: str) -> nn.Module:
    """The job's "student" or "teacher" as a module. Raises ArgumentError for a teacher that is none."""
    if role == "student":
        return job.student
    if not isinstance(job.teacher, ModuleTeacher):
        raise ArgumentError(
            "This recipe looks inside the teacher, and the teacher is no module. Give a model as teacher=."
        )
    return job.teacher.module


def running(job: Job, role: str) -> Callable[[], Any]:
    """A function that runs a model on two samples, in eval mode without gradient."""
    module = module_of(job, role)
    batch = job.data.train.batch(torch.arange(min(2, len(job.data.train)))).to(device_of(module))

    def run() -> Any:
        with evaluating(module):
            return job.task.forward(module, job.task.view(batch, module, role))

    return run


def last_stages(job: Job, count: int) -> list[tuple[str, str]]:
    """The last stages of student and teacher in pairs, from the shallow ones to the last: `count`, or as many as both have."""
    found = [stages(module_of(job, role)) for role in ("student", "teacher")]
    most = min(count, *map(len, found))
    if most < 1:
        raise SignalError(
            "Student or teacher has no stages that can be found by structure: use a recipe of outputs, such as kd."
        )
    return list(zip(*(names[-most:] for names in found), strict=True))


def spread_layers(job: Job, count: int) -> list[tuple[str, str]]:
    """Layers of student and teacher in pairs, `count` evenly spread from the first to the last, or the last alone."""
    if count < 1:
        raise ArgumentError(f"layers={count!r}: expected 1 or more.")
    fractions = [number / (count - 1) for number in range(count)] if count > 1 else [1.0]
    return list(dict.fromkeys((job.layer("student", at=at), job.layer("teacher", at=at)) for at in fractions))


def preactivation(job: Job, role: str, stage: str) -> str:
    """The tap of a stage's values before its last activation; see `signals.order.before_activation`."""
    return before_activation(module_of(job, role), stage, running(job, role))


def classifier(job: Job, role: str) -> str:
    """The name of the linear layer that gives a model's logits. Raises SignalError where there is none."""

    def logits(output: Any) -> Tensor:
        return job.task.signals(output)["logits"]

    return classifier_of(module_of(job, role), running(job, role), logits)


def signals_of_train(job: Job, teacher: Teacher, taps: Sequence[str]) -> dict[str, Tensor]:
    """A teacher's signals of the whole training part, without augmentation: pooled to vectors, [samples, width] each."""
    train, place = job.data.train, device_of(next(iter(teacher.modules()), None))
    found: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    for chosen in torch.arange(len(train)).split(AT_ONCE):
        for name, value in teacher.read(train.batch(chosen).to(place), list(taps), job.task).items():
            found[name].append(pooled(value.detach().float().cpu()))
    return {name: torch.cat(values) for name, values in found.items()}
