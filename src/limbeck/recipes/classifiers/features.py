"""Recipes that compare what is inside: features, attention maps, and relations between samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="FitNets: Hints for Thin Deep Nets", year=2015, field="classifiers", needs=("features", "labels"))
def fitnets(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 100.0) -> Stage:
    """Lead the student's middle layer to the teacher's through a learned regressor.

    limbeck distill fitnets teacher=... student=... data=... student_layer=layer2 teacher_layer=layer2

    CE + 100 MSE(regressor(student map), teacher map), in one stage as in the CIFAR-100 benchmarks (Romero et al., 2015,
    train the hint first).
    """
    taps = job.layer("student", student_layer), job.layer("teacher", teacher_layer)
    return job.stage(o.cross_entropy() + weight * o.feature_mse().on(*taps).projected("regressor"))


@recipe(paper="Paying More Attention to Attention", year=2017, field="classifiers", needs=("features", "labels"))
def attention_transfer(job: Job, layers: int = 3, weight: float = 1000.0) -> Stage:
    """Match where the layers of a CNN look: the normalised spatial energy of their maps.

    limbeck distill attention_transfer teacher=... student=... data=...

    CE + 1000 * sum over stages of the mean squared difference of attention maps (Zagoruyko and Komodakis, 2017).
    """
    from limbeck.training.inside import spread_layers

    return job.stage(
        o.cross_entropy() + weight * sum(o.attention_map_mse().on(*pair) for pair in spread_layers(job, layers))
    )


@recipe(paper="Similarity-Preserving Knowledge Distillation", year=2019, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def similarity_preserving(job: Job, student_layer: str = "auto", teacher_layer: str = "auto",
                          weight: float = 3000.0) -> Stage:  # fmt: skip
    """Samples that look alike to the teacher should look alike to the student.

    limbeck distill similarity_preserving teacher=... student=... data=...

    CE + 3000 * squared difference of the row-normalised Gram matrices / B^2 (Tung and Mori, 2019).
    """
    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    return job.stage(o.cross_entropy() + weight * o.gram_rows_mse().on(*taps))


@recipe(paper="Relational Knowledge Distillation", year=2019, field="classifiers", needs=("features", "labels"))
def rkd(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", distance: float = 25.0,
        angle: float = 50.0) -> Stage:  # fmt: skip
    """Keep the distances between samples and the angles of their triangles as the teacher has them.

    limbeck distill rkd teacher=... student=... data=... distance=25 angle=50

    CE + 25 distance + 50 angle on pooled features (Park et al., 2019; weights of the CIFAR-100 benchmarks).
    """
    from limbeck.functional import pooled

    taps = job.vectors(student_layer, teacher_layer)
    return job.stage(
        o.cross_entropy()
        + distance * o.relation_distance().on(*taps).through(pooled)
        + angle * o.relation_angle().on(*taps).through(pooled)
    )


@recipe(paper="Similarity of Neural Network Representations Revisited", year=2019, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def cka(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 1.0) -> Stage:
    """Align the representations up to rotation and scale: 1 - centred kernel alignment as a loss.

    limbeck distill cka teacher=... student=... data=...

    CE + (1 - linear CKA) on pooled features of the last stage (the measure of Kornblith et al., 2019; its use as a
    loss and the weight are ours).
    """
    from limbeck.functional import pooled

    taps = job.vectors(student_layer, teacher_layer)
    return job.stage(o.cross_entropy() + weight * o.cka_distance().on(*taps).through(pooled))


@recipe(paper="Distilling Knowledge via Knowledge Review", year=2021, field="classifiers", needs=("features", "labels"))
def review_kd(job: Job, layers: int = 3, weight: float = 5.0, width: int = 512, warmup: float = 1 / 12) -> Stage:
    """Fuse the student's stages from the last to the first, and match each fusion to the teacher's stage.

    limbeck distill review_kd teacher=... student=... data=... weight=5

    CE + ramp * 5 * sum over stages of the hierarchical context loss (Chen et al., 2021; its weight for resnet32x4; the paper
    ramps over 20 of 240 epochs). Stages: the last `layers`, before their last activation, and the pooled vector. The fusion
    blocks are trained beside the student and are not part of it. For CNNs.
    """
    from limbeck.training.inside import classifier, last_stages, preactivation

    ours, theirs = zip(*last_stages(job, layers), strict=True)
    student = [*(preactivation(job, "student", tap) for tap in ours), f"{classifier(job, 'student')}#input"]
    teacher = [*(preactivation(job, "teacher", tap) for tap in theirs), f"{classifier(job, 'teacher')}#input"]
    match = o.review(student=student, teacher=teacher, width=width)
    return job.stage(o.cross_entropy() + o.ramp(0, weight, until=warmup) * match)
