"""Recipes that compare samples with each other: neighbours, errors that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Learning Deep Representations with Probabilistic Knowledge Transfer", year=2018, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def pkt(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 30000.0) -> Stage:
    """Give each sample the neighbours that the teacher gives it, as a distribution over the batch.

    limbeck distill pkt teacher=... student=... data=...

    CE + 30000 * KL of the neighbour distributions on pooled features of the last stage, the mean over B^2 entries, which is
    why the weight is large (Passalis and Tefas, 2018; weight of the CIFAR-100 benchmarks).
    """
    from limbeck.functional import pooled

    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    return job.stage(o.cross_entropy() + weight * o.neighbour_kl().on(*taps).through(pooled))


@recipe(paper="Correlation Congruence for Knowledge Distillation", year=2019, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def correlation_congruence(job: Job, student_layer: str = "auto", teacher_layer: str = "auto",
                           weight: float = 0.02) -> Stage:  # fmt: skip
    """Keep the student's features from erring in the same places on samples that follow each other in a batch.

    limbeck distill correlation_congruence teacher=... student=... data=...

    CE + 0.02 * sum over features of |e_i| |e_(i+1)|, the mean over neighbours in the batch, e the difference of pooled features
    of the last stage, the student's behind a learned linear map (Peng et al., 2019; form and weight of the CIFAR-100
    benchmarks, which learn a map of the teacher's features too: both could then shrink to 0).
    """
    from limbeck.functional import pooled

    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    return job.stage(o.cross_entropy() + weight * o.consecutive_error_product().on(*taps).projected().through(pooled))
