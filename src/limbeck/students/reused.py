"""A student that ends in its teacher's classifier (SimKD, Chen et al., 2022)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.signals.order import after, classifier_of
from limbeck.signals.step import derive
from limbeck.signals.taps import Taps
from limbeck.students.declare import builder, seeded
from limbeck.students.heads import Headed, spec_of, without
from limbeck.teachers.base import ModuleTeacher

if TYPE_CHECKING:
    from limbeck.training.job import Job


class ReusedClassifier(Headed):
    """Body, projector and the teacher's classifier, which is frozen: SimKD's student (Chen et al., 2022).

    The body gives maps [batch, channels, height, width]; `side` is the size to which larger ones are pooled first, `shape` that
    of maps which the body flattens.
    """

    def __init__(self, body: nn.Module, channels: int, classifier: nn.Linear, factor: int, side: Sequence[int],
                 shape: Sequence[int] | None = None):  # fmt: skip
        super().__init__(body)
        self.side, self.shape = (side[0], side[1]), None if shape is None else tuple(shape)
        self.projector = bottleneck(channels, classifier.in_features, factor)
        self.classifier = classifier.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        maps = self.features(*args, **kwargs)
        if self.shape is not None:
            maps = maps.unflatten(1, self.shape)
        if tuple(maps.shape[2:]) != self.side:
            maps = F.adaptive_avg_pool2d(maps, self.side)
        return self.classifier(self.projector(maps).mean((2, 3)))


def bottleneck(inputs: int, outputs: int, factor: int = 2) -> nn.Sequential:
    """SimKD's projector of maps: 1x1, 3x3, 1x1 convolutions, each with BN and ReLU, `outputs` / `factor` channels between."""
    inner = max(1, outputs // factor)
    layers: list[nn.Module] = []
    for before, behind, size in ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)):
        layers += [nn.Conv2d(before, behind, size, padding=size // 2, bias=False), nn.BatchNorm2d(behind), nn.ReLU()]
    return nn.Sequential(*layers)


@builder
def reused_classifier(student: dict[str, Any], without_layers: list[str], channels: int, width: int, outputs: int, bias: bool,
                      factor: int, side: list[int], shape: list[int] | None = None) -> ReusedClassifier:  # fmt: skip
    """A `ReusedClassifier` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    body = without(build_from(student), without_layers)
    return ReusedClassifier(body, channels, nn.Linear(width, outputs, bias=bias), factor, side, shape)


def reuse_classifier(job: Job, student_layer: str, teacher_layer: str, factor: int) -> ReusedClassifier:
    """The job's student up to a layer, a fresh projector, and the teacher's own classifier.

    Raises ModelError where a layer gives no maps, where the teacher's classifier is not given the mean of its maps, or where
    the student does more after the layer than its modules.
    """
    if not isinstance(job.teacher, ModuleTeacher):
        raise ModelError(
            "This recipe takes the teacher's classifier into the student, and the teacher here is no module."
        )
    student, teacher, batch = (
        job.student,
        job.teacher.module,
        job.data.train.batch(torch.arange(min(2, len(job.data.train)))),
    )

    def look(module: nn.Module, role: str, tap: str) -> tuple[Any, Tensor, Tensor]:
        inputs = job.task.view(batch.to(device_of(module)), module, role)

        def run() -> Any:
            return job.task.forward(module, inputs)

        with evaluating(module), Taps(module, [tap]) as taps:
            logits = job.task.signals(taps.run(run))["logits"]
        maps = taps.signals[tap]
        if maps.ndim != 4:
            raise ModelError(
                f"The {role}'s layer {tap!r} gives {list(maps.shape)}; SimKD projects maps [batch, channels, height, width]. "
                f"Name another by {role}_layer=, or use a recipe of outputs (kd) or vectors (rkd)."
            )
        return run, maps, logits

    run_teacher, target, logits = look(teacher, "teacher", teacher_layer)
    with evaluating(teacher):
        name = classifier_of(teacher, run_teacher, lambda output: job.task.signals(output)["logits"])
        head: Any = teacher.get_submodule(name)
        fits = target.shape[1] == head.in_features and torch.allclose(
            head(target.mean((2, 3))), logits, atol=1e-3, rtol=1e-3
        )
    if not fits:
        raise ModelError(
            f"The teacher's logits are not its classifier {name!r} of the mean of {teacher_layer!r}: it cannot be reused. "
            "Name the last maps before the global pooling by teacher_layer=."
        )
    run_student, maps, _ = look(student, "student", student_layer)
    with evaluating(student):
        names = after(student, student_layer, run_student)
        body = without(student, names)
    inputs = job.task.view(batch.to(device_of(student)), student, "student")
    with evaluating(body):
        given = Headed(body).features(inputs)
    if given.numel() != maps.numel() or not torch.equal(given.flatten(), maps.flatten()):
        raise ModelError(
            f"{type(student).__name__} does more after {student_layer!r} than its modules do, so that it cannot be ended there."
        )
    shape = None if given.ndim == 4 else list(maps.shape[1:])
    side = [min(ours, theirs) for ours, theirs in zip(maps.shape[2:], target.shape[2:], strict=True)]
    head = copy.deepcopy(head)
    with seeded(derive(job.settings.seed, "projector") % 2**31):
        made = ReusedClassifier(body, maps.shape[1], head, factor, side, shape).to(device_of(student))
    spec = spec_of(job, reused_classifier, without_layers=names, channels=maps.shape[1], width=head.in_features,
                   outputs=head.out_features, bias=head.bias is not None, factor=factor, side=side, shape=shape)  # fmt: skip
    if spec is not None:
        made.limbeck_spec = spec  # type: ignore[assignment]
    return made
