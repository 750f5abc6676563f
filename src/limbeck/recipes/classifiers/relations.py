"""Recipes that compare samples with each other: neighbours, errors that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
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

    taps = job.vectors(student_layer, teacher_layer)
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

    taps = job.vectors(student_layer, teacher_layer)
    return job.stage(o.cross_entropy() + weight * o.consecutive_error_product().on(*taps).projected().through(pooled))


@recipe(paper="Knowledge Distillation via Token-level Relationship Graph", year=2023, field="classifiers",
        needs=("features", "logits", "labels"))  # fmt: skip
def trg(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", local: float = 1.0, context: float = 1.0,
        contrast: float = 0.1, neighbours: int = 8, tokens: int = 512, soft: float = 0.9,
        temperature: float = 4.0) -> Stage:  # fmt: skip
    """Match how patches are related, across the images of a batch and inside each, beside predictions.

    limbeck distill trg teacher=... student=... data=... neighbours=8

    (1 - soft) CE + soft KD + local * KL over each token's nearest neighbours + context * MSE of cosines inside an image +
    contrast * InfoNCE between a token's projection and the teacher's (2023, from its text, no code is published; weights, the
    number of neighbours and how the temperature of the first adapts are ours). Tokens are positions of the last map or patches,
    at most `tokens` of a batch. The projector is not part of the student.
    """
    if not 0 <= soft <= 1:
        raise ArgumentError(f"soft={soft!r}: expected a share from 0 to 1.")
    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    graph = o.token_graph(*taps, local=local, context=context, contrast=contrast, neighbours=neighbours, most=tokens)
    return job.stage((1 - soft) * o.cross_entropy() + soft * o.forward_kl(temperature=temperature) + graph)
