"""TGeo-KD's second learner (Hu et al., 2024): who learns how much to trust the teacher, and on which samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.data.base import Batch, Part, SubsetPart
from limbeck.errors import ArgumentError, DataError
from limbeck.evaluation.modes import eval_mode
from limbeck.functional.geometry import class_means
from limbeck.objectives.geometry import HeldOut, Logits, Ratio, WeighedKD
from limbeck.signals.step import derive
from limbeck.students.declare import seeded
from limbeck.training.inside import signals_of_train
from limbeck.training.learner import Learner

if TYPE_CHECKING:
    from limbeck.training.job import Job


def hold_out_labelled(job: Job, share: float) -> tuple[Part, Part]:
    """The training part without a share of its labelled samples, and these."""
    if not 0 < share < 1:
        raise ArgumentError(f"held={share!r}: expected a part of the labelled samples, above 0 and below 1.")
    train = job.data.train
    known = train.is_labelled().nonzero()[:, 0]
    count = round(share * len(known))
    if not 0 < count < len(known):
        raise DataError(
            f"held={share} of {len(known)} labelled training samples leaves none on one side. Give more labels."
        )
    draw = torch.Generator().manual_seed(derive(job.settings.seed, "held out"))
    chosen = known[torch.randperm(len(known), generator=draw)[:count]].sort().values
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[chosen] = False
    return SubsetPart(train, rest.nonzero()[:, 0], f"{train.name}, the rest"), SubsetPart(train, chosen, "held out")


def student_logits(job: Job) -> Logits:
    """A function that runs the student in eval mode, with other weights, on a batch."""
    student = job.student

    def logits(weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        inputs = job.task.view(batch, student, "student")
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        with eval_mode(student):
            return job.task.signals(torch.func.functional_call(student, dict(weights), args, kwargs))["logits"]

    return logits


def ratio_learner(
    job: Job, temperature: float, held: float, hidden: int, every: int
) -> tuple[WeighedKD, Learner, Part]:
    """The student's objective, the learner that weighs it, and what the student trains on."""
    rest, out = hold_out_labelled(job, held)
    assert job.teacher is not None and job.data.train.labels is not None
    logits = signals_of_train(job, job.teacher, ["logits"])["logits"]
    with seeded(derive(job.settings.seed, "ratio") % 2**31):
        module = Ratio(class_means(logits.softmax(1), job.data.train.labels), hidden)
    size = min(len(out), 64 if job.settings.batch_size == "all" else int(job.settings.batch_size))
    objective = HeldOut(student_logits(job), out, temperature, job.settings.learning_rate, size)
    return WeighedKD(temperature), job.learner("ratio", objective, module, every=every), rest
