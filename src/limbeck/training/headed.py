"""A job's student with other heads: taken apart by how it runs, and written down so that it can be built again."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.evaluation.modes import device_of
from limbeck.evaluation.run import predict
from limbeck.functional.heads import choose_mixture
from limbeck.signals.order import after
from limbeck.signals.step import derive
from limbeck.signals.taps import Taps
from limbeck.students.declare import seeded
from limbeck.students.heads import (
    Deepened,
    DualHead,
    SubclassHead,
    carry,
    deepened,
    dual_head,
    subclass_head,
    unwrapped,
    without,
)
from limbeck.students.reused import ReusedClassifier, SharedClassifier, reused_classifier, shared_classifier
from limbeck.students.save import how_to_build
from limbeck.training.inside import classifier, module_of, running

if TYPE_CHECKING:
    from limbeck.training.job import Job


def spec_of(job: Job, function: Any, **arguments: Any) -> dict[str, Any] | None:
    """How a student around the job's is built again; None, with a warning, where nobody knows how to build that one."""
    student = how_to_build(job.student)
    if "builder" not in student:
        job.warn(
            f"How to build a {type(job.student).__name__} is not known to Limbeck, so that the saved student is loaded by its "
            "class alone: load_module(folder, builder=...), with a function that makes the whole student."
        )
        return None
    return {"builder": f"{function.__module__}:{function.__qualname__}", "arguments": {"student": student, **arguments}}


def reuse_classifier(job: Job, student_layer: str, teacher_layer: str, factor: int) -> ReusedClassifier:
    """The job's student up to a layer, a fresh projector, and the teacher's own classifier.

    Raises ModelError where a layer gives no maps, where the teacher's classifier is not given the mean of its maps, or where
    the student does more after the layer than its modules.
    """
    teacher = module_of(job, "teacher")

    def look(role: str, tap: str) -> tuple[Tensor, Tensor]:
        with Taps(module_of(job, role), [tap]) as taps:
            logits = job.task.signals(taps.run(running(job, role)))["logits"]
        if (maps := taps.signals[tap]).ndim != 4:
            raise ModelError(
                f"The {role}'s layer {tap!r} gives {list(maps.shape)}; SimKD projects maps [batch, channels, height, width]. "
                f"Name another by {role}_layer=, or use a recipe of outputs (kd) or vectors (rkd)."
            )
        return maps, logits

    target, logits = look("teacher", teacher_layer)
    name = classifier(job, "teacher")
    head: Any = copy.deepcopy(teacher.get_submodule(name))
    with torch.no_grad():
        pooled = target.mean((2, 3))
        fits = pooled.shape[1] == head.in_features and torch.allclose(head(pooled), logits, atol=1e-3, rtol=1e-3)
    if not fits:
        raise ModelError(
            f"The teacher's logits are not its classifier {name!r} of the mean of {teacher_layer!r}: it cannot be reused. "
            "Name the last maps before the global pooling by teacher_layer=."
        )
    maps, _ = look("student", student_layer)
    names, body, shape = ended_at(job, student_layer, maps)
    side = [min(ours, theirs) for ours, theirs in zip(maps.shape[2:], target.shape[2:], strict=True)]
    with seeded(derive(job.settings.seed, "projector") % 2**31):
        made = ReusedClassifier(body, maps.shape[1], head, factor, side, shape).to(device_of(job.student))
    spec = spec_of(job, reused_classifier, without_layers=names, channels=maps.shape[1], width=head.in_features,
                   outputs=head.out_features, bias=head.bias is not None, factor=factor, side=side, shape=shape)  # fmt: skip
    if spec is not None:
        made.limbeck_spec = spec  # type: ignore[assignment]
    return made


def ended_at(job: Job, layer: str, maps: Tensor) -> tuple[list[str], nn.Module, list[int] | None]:
    """What runs after a layer of the job's student, a copy without it, and the shape of `maps`, where the copy flattens them.

    `maps`: what the layer gives of `running(job, "student")`. Raises ModelError where the student does more after the layer
    than its modules.
    """
    names = after(job.student, layer, running(job, "student"))
    body = without(job.student, names)
    given = unwrapped(running(replace(job, student=body), "student")())
    if not torch.equal(given.flatten(), maps.flatten()):
        raise ModelError(
            f"{type(job.student).__name__} does more after {layer!r} than its modules do, so that it cannot be ended there. "
            "Name another layer by student_layer=."
        )
    return names, body, None if given.ndim == 4 else list(maps.shape[1:])


def share_classifier(job: Job) -> SharedClassifier:
    """The job's student without its classifier, a fresh linear map, and the teacher's own classifier.

    Raises SignalError where one of them ends in no linear layer.
    """
    name, given = classifier(job, "student"), classifier(job, "teacher")
    own: Any = job.student.get_submodule(name)
    head: Any = copy.deepcopy(module_of(job, "teacher").get_submodule(given))
    with seeded(derive(job.settings.seed, "projector") % 2**31):
        made = SharedClassifier(without(job.student, [name]), own.in_features, head).to(device_of(job.student))
    spec = spec_of(job, shared_classifier, without_layers=[name], width=own.in_features, inner=head.in_features,
                   outputs=head.out_features, bias=head.bias is not None)  # fmt: skip
    if spec is not None:
        made.limbeck_spec = spec  # type: ignore[assignment]
    return made


def deepen(job: Job, big: str = "") -> Deepened:
    """A network to be pretrained: `big` built for the job's data, else a copy of the teacher, else one like the student.

    Its classifier is a fresh one behind a fresh hidden layer. Raises SignalError where it ends in no linear layer.
    """
    if big:
        from limbeck.students.build import build_student

        base = build_student(big, job.data, job.task, seed=derive(job.settings.seed, "big") % 2**31)
        job.task.check(job.data, {"big network": base})
    else:
        base = job.fresh_student() if job.teacher is None else job.copy_of_teacher()
    return _on_body(replace(job, student=base.to(device_of(job.student))), Deepened, deepened)


def two_heads(job: Job) -> DualHead:
    """The job's student with two fresh heads in the place of its classifier. Raises SignalError where it has none."""
    return _on_body(job, DualHead, dual_head)


def with_subclasses(job: Job, count: int) -> SubclassHead:
    """The job's student with a fresh head of `count` subclasses to a class. Raises SignalError as `two_heads` does."""
    return _on_body(job, SubclassHead, subclass_head, count=count)


def _on_body(job: Job, kind: Any, function: Any, **more: Any) -> Any:
    name = classifier(job, "student")
    head: Any = job.student.get_submodule(name)
    sizes = {"width": head.in_features, "outputs": head.out_features, **more}
    with seeded(derive(job.settings.seed, "heads") % 2**31):
        made = kind(without(job.student, [name]), **sizes).to(device_of(job.student))
    spec = spec_of(job, function, without_layers=[name], **sizes)
    if spec is not None:
        made.limbeck_spec = spec
    return made


def mix_on_validation(job: Job, student: DualHead) -> None:
    """Choose the mixture of a trained student's heads on the validation part; without labels there it stays as it is."""
    part = job.data.parts.get("valid")
    if part is None or part.labels is None or not bool(part.is_labelled().any()):
        job.warn(
            "No validation part has labels, so that both heads count half: give valid=0.1 to choose their mixture."
        )
        return
    heads = {tap: predict(Tapped(student, tap), part, job.task) for tap in ("hard", "soft")}
    student.mixture.copy_(torch.tensor(choose_mixture(heads["hard"], heads["soft"], part.labels)))


class Tapped(nn.Module):
    """A module that gives one of its inner signals instead of its output."""

    def __init__(self, module: nn.Module, tap: str):
        super().__init__()
        self.module, self.tap = module, tap
        carry(module, self)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        with Taps(self.module, [self.tap]) as taps:
            taps.run(lambda: self.module(*args, **kwargs))
        return taps.signals[self.tap]
