"""A second view of every batch, alike for student and teacher: what the data augmented once is augmented further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from limbeck.data.augment import CropFlip
from limbeck.data.base import Augmentation, Batch, Inputs
from limbeck.errors import ArgumentError
from limbeck.signals.step import Ref, Step
from limbeck.tasks.base import Task
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import Derived

if TYPE_CHECKING:
    from limbeck.training.job import Job


@dataclass
class SecondView:
    """Augments the inputs of a batch; which view each sample gets is drawn once in a step, for all who look."""

    name: str
    augmentation: Augmentation

    def of(self, batch: Batch, step: Step) -> Batch:
        view = step.once(f"view {self.name}", lambda generator: self.augmentation.draw(len(batch), generator))
        return replace(batch, inputs=self.augmentation.apply(batch.inputs, view))


class Viewed(Derived):
    """A teacher that reads the second view: the role "teacher/strong" beside "teacher"."""

    def __init__(self, base: Teacher, view: SecondView):
        self.base, self.view = base, view

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return []

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        return self.base.read(self.view.of(step.batch, step), taps, task, progress=step.progress)


def second_view(job: Job, name: str, augmentation: Any) -> dict[str, Any]:
    """The arguments of `Job.stage` that give the roles "student/NAME" and "teacher/NAME".

    Raises ArgumentError for a teacher that is stored (it has no signals of such views), for inputs that are no tensors, and
    for a shift or crop of what is no image.
    """
    if job.teacher is None or job.teacher.stored:
        raise ArgumentError(
            f"The {name} view is made while training, and a stored teacher has no signals of it: give the teacher itself, or "
            f"leave {name}= out."
        )
    inputs = job.data.train.batch([0]).inputs
    dimensions = inputs.ndim if isinstance(inputs, Tensor) and inputs.is_floating_point() else 0
    if not dimensions or (isinstance(augmentation, CropFlip) and dimensions != 4):
        raise ArgumentError(
            f"{name}={type(augmentation).__name__} cannot be applied to these data of kind {job.data.kind!r}: shifts, crops "
            "and flips are for images, noise is for images and tables."
        )
    view, module = SecondView(name, augmentation), job.student

    def seen(batch: Batch, step: Step) -> Inputs:
        return job.task.view(view.of(batch, step), module, "student")

    return {"views": {f"student/{name}": seen}, "roles": {f"teacher/{name}": Viewed(job.teacher, view)}}
