"""Recipes whose student ends in other heads than it came with; the saved student holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


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


@recipe(paper="Simple Semi-supervised Knowledge Distillation from Vision-Language Models via Dual-Head Optimization",
        year=2025, field="classifiers", needs=("logits", "labels"))  # fmt: skip
def dho(job: Job, temperature: float = 2.0, hard: float = 0.5) -> Generator[Stage, Result, None]:
    """Give labels and teacher a head each on one backbone, so that their gradients do not fight, and mix both to predict.

    limbeck distill dho teacher=... student=... data=... labelled=100

    0.5 CE(hard head) + 0.5 (KD of labelled + KD of unlabelled samples)(soft head), KD = T^2 KL at T = 2, each a mean over its
    samples; half of every batch is labelled where both kinds are there (2025, erjui/DHO). The prediction is a softmax(hard) +
    (1 - a) softmax(soft / b), with a and b chosen on the validation part after training. The saved student holds both heads,
    a and b.
    """
    from limbeck.training.headed import mix_on_validation, two_heads

    if not 0 < hard < 1:
        raise ArgumentError(f"hard={hard}: expected the share of the labels in the loss, above 0 and below 1.")
    kinds, size = job.data.train.kinds(), job.settings.batch_size
    both = {"labels", "unlabelled"} <= kinds
    if both and (size == "all" or int(size) < 2):
        raise ArgumentError(
            f"batch_size={size}: dho takes half of every batch from each kind of samples; give a number."
        )
    # equal halves: the sum of two means over a half each is twice the mean over all
    soft = (2.0 if both else 1.0) * (1 - hard) * o.forward_kl(temperature=temperature).on("soft", "logits")
    result = yield job.stage(
        hard * o.cross_entropy().on("hard") + soft, student=two_heads(job),
        labelled_per_batch=int(size) // 2 if both else None,
    )  # fmt: skip
    mix_on_validation(job, result.student)  # type: ignore[arg-type]


@recipe(paper="Linear Projections of Teacher Embeddings for Few-Class Distillation", year=2024, field="classifiers",
        needs=("logits", "features"))  # fmt: skip
def lelp(job: Job, subclasses: int = 8, temperature: float = 1.0, split: float = 1.0, hard: float = 0.0,
         teacher_layer: str = "auto") -> Stage:  # fmt: skip
    """Split every class along directions of the teacher's embeddings, and teach the parts: for tasks of two or few classes.

    limbeck distill lelp teacher=... student=... data=... subclasses=8

    T^2 KL(q || student) at `temperature`, over classes x `subclasses` outputs, q = p_T(class) softmax(projections / `split`)
    within the class; `hard` adds that much CE. Directions are a class's principal components in both senses, projections have
    deviation 1 along the first (after Loo et al., 2024; no code is published, details ours). The student's classifier becomes
    one of subclasses, whose sums are the prediction; it is saved so. The teacher reads each sample once. `teacher_layer`: where
    its embeddings are, by default what its classifier is given.
    """
    from limbeck.training.headed import with_subclasses
    from limbeck.training.subclasses import split_classes

    teacher, roles = split_classes(job, teacher_layer, subclasses, split)
    follow = o.forward_kl(temperature=temperature).on("subclasses", "subclass:logits")
    loss = hard * o.cross_entropy() + follow if hard and "labels" in job.has() else follow
    return job.stage(loss, student=with_subclasses(job, subclasses), teacher=teacher, roles={"subclass": roles})
