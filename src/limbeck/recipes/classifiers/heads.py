"""Recipes whose student ends in other heads than it came with; the saved student holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Knowledge Distillation with the Reused Teacher Classifier", year=2022, field="classifiers",
        needs=("features",))  # fmt: skip
def simkd(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", factor: int = 2) -> Stage:
    """Keep the teacher's classifier, and train a student and a small projector to give it the teacher's features.

    limbeck distill simkd teacher=... student=... data=... factor=2

    MSE of the projected last map to the teacher's, the larger one pooled before; no label is looked at (Chen et al., 2022). The
    student's own classifier is taken off. Projector (1/`factor` of the teacher's channels inside) and the teacher's frozen
    classifier are part of the student: they are saved, exported and counted. For maps of CNNs.
    """
    from limbeck.functional import pooled_to
    from limbeck.training.headed import reuse_classifier

    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    student = reuse_classifier(job, *taps, factor=factor)
    match = o.feature_mse().on("projector", taps[1]).through(pooled_to(*student.side))
    return job.stage(match, student=student)
