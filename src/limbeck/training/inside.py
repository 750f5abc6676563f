"""Where in a job's models a recipe looks: their last stages, the values before a stage's activation, the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.evaluation.modes import device_of, evaluating, frozen
from limbeck.functional.transforms import pooled
from limbeck.signals.layers import layers
from limbeck.signals.order import before_activation, classifier_of
from limbeck.signals.stages import stage_at, stages
from limbeck.signals.taps import match
from limbeck.teachers.base import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.signals.step import Step
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


def layers_of(job: Job, role: str, pattern: str = "auto") -> list[str]:
    """The taps of a model's layers: those that a pattern names, or those that are found by structure."""
    module = module_of(job, role)
    if pattern != "auto":
        return match(module, pattern)
    found = layers(module)
    if not found:
        raise SignalError(
            f"{type(module).__name__} has no layers that can be found by structure. Name them by a pattern, such as "
            f"{role}_layers='bert.encoder.layer.*'; `limbeck describe` lists its modules."
        )
    return found


def one_tokenizer(job: Job, first: bool = False) -> None:
    """Raise where student and teacher read texts by different tokens, which cannot be compared one by one.

    With `first`, also where padding comes before a text, so that its first token is at no fixed place.
    """
    from limbeck.tasks.text import tokenizer_of

    found = [tokenizer_of(module_of(job, role)) for role in ("student", "teacher")]
    words = [each.get_vocab() if hasattr(each, "get_vocab") else each for each in found]
    if words[0] != words[1] and None not in words:
        raise ArgumentError(
            "This recipe compares the tokens of student and teacher one by one, and they have different tokenizers. Build the "
            "student with the teacher's (student=encoder:2,128 or shrink(depth=2)), or use a recipe of outputs, such as kd."
        )
    if first and any(getattr(each, "padding_side", "right") == "left" for each in found):
        raise ArgumentError(
            "This recipe compares first tokens, and a tokenizer here pads on the left: set tokenizer.padding_side = 'right'."
        )


def last_stages(job: Job, count: int) -> list[tuple[str, str]]:
    """The last stages of student and teacher in pairs, from the shallow ones to the last: `count`, or as many as both have."""
    if count < 1:
        raise ArgumentError(f"layers={count!r}: expected 1 or more.")
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


def goes_on_from(job: Job, tap: str) -> Callable[[Step, Tensor], Tensor]:
    """A function that gives the teacher's logits of a step's batch when a signal of it is put in at `tap`, with gradient."""
    module_of(job, "teacher")  # which says so where there is none
    teacher, task = job.teacher, job.task
    assert isinstance(teacher, ModuleTeacher)

    def reply(step: Step, state: Tensor) -> Tensor:
        with frozen(teacher.module):  # gradients of weights that nobody trains would cost a third
            return teacher.read(step.batch, ["logits"], task, replace={tap: state})["logits"]

    return reply


def source_of(job: Job, given: Any, layer: str = "auto") -> tuple[ModuleTeacher, str]:
    """A model of any classes as a teacher (None: the job's), and the tap of a layer of it ("auto": its last stage)."""
    from limbeck.teachers.load import load_model

    if given is None:
        module = module_of(job, "teacher")
        assert isinstance(job.teacher, ModuleTeacher)
        teacher = job.teacher
    else:
        loaded = load_model(given, data=job.data, task=job.task, role="teacher")
        if not isinstance(loaded, nn.Module):
            raise ArgumentError(f"source= is looked into, and a {type(loaded).__name__} is no module. Give a model.")
        module, teacher = loaded, ModuleTeacher(loaded)
    return teacher, stage_at(module, 1) if layer == "auto" else layer
