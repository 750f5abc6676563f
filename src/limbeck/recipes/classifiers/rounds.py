"""Recipes of several stages or several learners: generations and peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Born-Again Neural Networks", year=2018, field="classifiers", needs=("logits",))
def born_again(job: Job, generations: int = 3) -> Generator[Stage, Result, None]:
    """Each generation is a fresh student of the same shape that learns from the last one.

    limbeck distill born_again teacher=... student=... data=... generations=3

    KL at temperature 1 (Furlanello et al., 2018; the paper's answer is the average of the generations, here the last).
    """
    teacher: Any = job.teacher
    for number in range(generations):
        student = job.student if number == 0 else job.fresh_student(number)
        result = yield job.stage(o.forward_kl(), teacher=teacher, student=student, name=f"generation {number + 1}")
        teacher = result.student


@recipe(paper="Deep Mutual Learning", year=2018, field="classifiers", needs=("labels",))
def deep_mutual_learning(job: Job, temperature: float = 1.0) -> Stage:
    """Two students from scratch teach each other while both learn the labels; no teacher.

    limbeck distill deep_mutual_learning student=... data=...

    Each: CE + KL(peer || self), the peer detached (Zhang et al., 2018). The first one is kept.
    """

    def lesson(peer: str) -> o.Sum:
        return o.cross_entropy() + o.forward_kl(temperature=temperature).against(peer)

    peer = job.learner("peer", lesson("student"), job.fresh_student())
    return job.stage(lesson("peer"), learners=[peer])


@recipe(paper="MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks", year=2020,
        field="classifiers", needs=("logits", "labels"))  # fmt: skip
def meal_v2(job: Job, before: float = 0.5, weight: float = 1.0) -> Generator[Stage, Result, None]:
    """Go on from a trained student with the mean probabilities of several teachers, without labels and without weight decay.

    limbeck distill meal_v2 teacher=[FOLDER,FOLDER,FOLDER] student=... data=... before=0.5

    Stage 1: CE, for the share `before` of the length; with 0 the student is trained already. Stage 2, without weight decay:
    -sum of mean_k p_k log p at temperature 1, no T^2, + a discriminator's binary cross-entropy between the student's logits and
    the mean of the teachers' (Shen and Savvides, 2020; both descend the same loss, as in the released code; the paper's 180
    epochs have the rate 0.01, then 0.001, and only crops and flips). The discriminator is not part of the student.
    """
    from limbeck.teachers.ensemble import Ensemble

    if before:
        yield job.stage(
            o.cross_entropy(), part=job.labelled(), name="labels", **job.settings.portion(before, epochs=True)
        )
    teachers = [f"{name}.logits" for name in job.teacher.teachers] if isinstance(job.teacher, Ensemble) else ["logits"]
    objective = o.soft_cross_entropy() + weight * o.told_apart(teachers)
    yield job.stage(objective, name="teachers", weight_decay=0.0, **job.settings.portion(1 - before, epochs=True))


@recipe(paper="Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation", year=2024,
        field="classifiers", needs=("logits", "labels"))  # fmt: skip
def tgeo_kd(job: Job, temperature: float = 4.0, held: float = 0.2, hidden: int = 64, every: int = 1) -> Stage:
    """Learn for each sample how much to trust the teacher against the label, from how the three lie to each other.

    limbeck distill tgeo_kd teacher=... student=... data=... held=0.2

    Mean of alpha KD + (1 - alpha) CE, alpha a small network of the edges and corners of the triangles of student, teacher (and
    its mean of the class) and label. It learns, every `every` steps, to lower the CE on `held` of the labelled training
    samples, which the student does not train on, after a step of the student (after Hu et al., 2024; no code is published,
    details ours: plain steps, the student in eval mode there, its own step with the alpha of the step before). Samples without
    a label have alpha 1.
    """
    from limbeck.training.trust import ratio_learner

    objective, learner, part = ratio_learner(job, temperature, held, hidden, every)
    return job.stage(objective, learners=[learner], part=part)
