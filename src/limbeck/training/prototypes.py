"""Prototypes of a model's local features, and a job's student that composes its maps from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.data.splits import spread
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.modes import device_of
from limbeck.signals.step import derive
from limbeck.signals.taps import Taps
from limbeck.students.declare import seeded
from limbeck.students.prototypes import Composed, composed
from limbeck.teachers.base import Teacher
from limbeck.training.headed import ended_at, spec_of
from limbeck.training.inside import running

if TYPE_CHECKING:
    from limbeck.training.job import Job

MOST = 2048  # images whose places are clustered


def prototypes_of(job: Job, teacher: Teacher, tap: str, count: int) -> Tensor:
    """The centres of `count` clusters of a teacher's local features on the training images, by k-means: [count, width].

    In a rehearsal of a few images. Raises ModelError where the tap gives no maps, ArgumentError for more clusters than places.
    """
    from sklearn.cluster import KMeans

    train = job.data.train
    place = device_of(next(iter(teacher.modules()), None))
    found = []
    for chosen in spread(len(train), 32 if job.rehearsal else MOST).split(256):
        maps = teacher.read(train.batch(chosen).to(place), [tap], job.task)[tap]
        if maps.ndim != 4:
            raise ModelError(
                f"The teacher's layer {tap!r} gives {list(maps.shape)}; prototypes are of maps [batch, channels, height, "
                "width]. Name another by teacher_layer=."
            )
        found.append(maps.detach().float().cpu().permute(0, 2, 3, 1).flatten(0, 2))
    places = torch.cat(found)
    if not 1 < count <= len(places):
        raise ArgumentError(f"prototypes={count}: expected 2 to {len(places)}, the number of places that there are.")
    seed = derive(job.settings.seed, "prototypes") % 2**31
    centres = KMeans(count, n_init=1, random_state=seed, max_iter=50).fit(places.numpy()).cluster_centers_
    return torch.from_numpy(centres).float()


def composing(job: Job, tap: str, prototypes: Tensor, temperature: float) -> Composed:
    """The job's student up to a layer of maps, and on with the prototypes; its classifier is a fresh one.

    Raises ModelError where the layer gives no maps, or where the student does more after it than its modules do.
    """
    with Taps(job.student, [tap]) as taps:
        logits = job.task.signals(taps.run(running(job, "student")))["logits"]
    maps = taps.signals[tap]
    if maps.ndim != 4:
        raise ModelError(
            f"The student's layer {tap!r} gives {list(maps.shape)}; it is maps that are composed. Name another by "
            "student_layer=."
        )
    names, body, shape = ended_at(job, tap, maps)
    with seeded(derive(job.settings.seed, "composed") % 2**31):
        made = Composed(body, maps.shape[1], prototypes, logits.shape[1], temperature, shape).to(device_of(job.student))
    spec = spec_of(job, composed, without_layers=names, channels=maps.shape[1], prototypes=list(prototypes.shape),
                   outputs=logits.shape[1], temperature=temperature, shape=shape)  # fmt: skip
    if spec is not None:
        made.limbeck_spec = spec  # type: ignore[assignment]
    return made
