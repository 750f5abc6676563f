"""A recipe across tasks: the teacher's classes are not the student's, and only parts of images pass over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Prototype-guided Cross-task Knowledge Distillation for Large-scale Models", year=2022, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def proc_kd(job: Job, source: Any = None, prototypes: int = 16, assign: float = 1.0, temperature: float = 0.1,
            student_layer: str = "auto", teacher_layer: str = "auto") -> Stage:  # fmt: skip
    """Compose the student's maps from parts that a teacher of other classes has learnt to see.

    limbeck distill proc_kd source=FOLDER teacher=... student=... data=... prototypes=16

    Prototypes: centres of k-means over the teacher's last maps, place by place, frozen. The student's map f, projected, attends
    to them, f' = f + MLP(attention); CE on f' + assign * KL between both models' assignments of places (after Li et al., 2022;
    no code is published, details ours). No logits are compared: `source` may have any classes (without it the teacher counts).
    Projector, prototypes and MLP are part of the student. For CNNs.
    """
    from limbeck.training.inside import source_of
    from limbeck.training.prototypes import composing, prototypes_of

    if not assign >= 0 or not temperature > 0:
        raise ArgumentError(f"assign={assign!r}, temperature={temperature!r}: expected 0 or more, and more than 0.")
    teacher, tap = source_of(job, source, teacher_layer)
    centres = prototypes_of(job, teacher, tap, prototypes)
    student = composing(job, job.layer("student", student_layer, at=1), centres, temperature)
    same = o.assignment_kl("assign", f"source:{tap}", centres, temperature=temperature)
    return job.stage(o.cross_entropy() + assign * same, student=student, roles={"source": teacher})
