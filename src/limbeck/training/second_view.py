"""More views of every batch: augmented further than the data did it, or in the colours of other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
    _check(job, name, augmentation)
    view = SecondView(name, augmentation)
    return {"views": {f"student/{name}": _seen(job, job.student, view)},
            "roles": {f"teacher/{name}": Viewed(job.teacher, view)}}  # fmt: skip


def two_views(job: Job, module: nn.Module, augmentation: Any) -> dict[str, Any]:
    """The arguments of `Job.stage` that give the roles "student/one" and "student/two" of a module that is trained.

    Raises ArgumentError as `second_view` does.
    """
    _check(job, "augment", augmentation)
    return {"views": {f"student/{name}": _seen(job, module, SecondView(name, augmentation)) for name in ("one", "two")}}


def mixed_statistics(job: Job, module: nn.Module) -> dict[str, Any]:
    """The arguments of `Job.stage` that give the role "student/mixed": images in the brightness and contrast of others.

    Mean and standard deviation of each channel become a mixture, by a share drawn from 0 to 1, of the image's own and those of
    another one of the batch, or of itself (MixStyle on inputs, Zhou et al., 2021, whose share is Beta(0.1, 0.1)). Raises
    ArgumentError for what is no image.
    """
    inputs = job.data.train.batch([0]).inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise ArgumentError(f"Channel statistics are mixed of images, and these data are of kind {job.data.kind!r}.")

    def seen(batch: Batch, step: Step) -> Inputs:
        images, count = batch.inputs, len(batch)
        assert isinstance(images, Tensor)
        images = images.float()
        order = step.once("mixed order", lambda generator: torch.randperm(count, generator=generator)).to(images.device)
        share = step.once("mixed share", lambda generator: torch.rand(count, generator=generator)).to(images)
        spread, mean = torch.std_mean(images, (2, 3), keepdim=True, correction=0)
        spread = spread + 1e-6
        plain, own = (images - mean) / spread, share[:, None, None, None]
        mixed = plain * torch.lerp(spread[order], spread, own) + torch.lerp(mean[order], mean, own)
        return job.task.view(replace(batch, inputs=mixed), module, "student")

    return {"views": {"student/mixed": seen}}


def _check(job: Job, name: str, augmentation: Any) -> None:
    inputs = job.data.train.batch([0]).inputs
    dimensions = inputs.ndim if isinstance(inputs, Tensor) and inputs.is_floating_point() else 0
    if not dimensions or (isinstance(augmentation, CropFlip) and dimensions != 4):
        raise ArgumentError(
            f"{name}={type(augmentation).__name__} cannot be applied to these data of kind {job.data.kind!r}: shifts, crops "
            "and flips are for images, noise is for images and tables."
        )


def _seen(job: Job, module: nn.Module, view: SecondView) -> Callable[[Batch, Step], Inputs]:
    return lambda batch, step: job.task.view(view.of(batch, step), module, "student")
