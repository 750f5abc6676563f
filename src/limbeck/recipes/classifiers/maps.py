"""Recipes that compare maps: patterns of channels, where each looks, what one layer tells about another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", year=2017, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def nst(job: Job, layers: int = 3, weight: float = 50.0) -> Stage:
    """Match the patterns over positions to which channels respond, as two sets.

    limbeck distill nst teacher=... student=... data=...

    CE + 50 * sum over stages of the squared MMD between the normalised channels of both, with a polynomial kernel of degree 2
    (Huang and Wang, 2017; weight of the CIFAR-100 benchmarks). For CNNs.
    """
    from limbeck.training.inside import spread_layers

    return job.stage(o.cross_entropy() + weight * sum(o.channel_mmd().on(*pair) for pair in spread_layers(job, layers)))


@recipe(paper="Channel-wise Knowledge Distillation for Dense Prediction", year=2021, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def cwd(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 50.0,
        temperature: float = 4.0) -> Stage:  # fmt: skip
    """Let every channel look where the teacher's looks.

    limbeck distill cwd teacher=... student=... data=...

    CE + 50 * the KL between softmaxes over positions, channel by channel, of the last maps, behind a 1x1 convolution where
    shapes differ (Shu et al., 2021, for segmentation, whose features have this weight and its temperature 4). For CNNs; a map
    of one position has nothing to say.
    """
    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    match = o.channel_kl(temperature=temperature).on(*taps).projected("needed")
    return job.stage(o.cross_entropy() + weight * match)


@recipe(paper="Masked Generative Distillation", year=2022, field="classifiers", needs=("features", "labels"))
def mgd(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 7e-5,
        ratio: float = 0.15) -> Stage:  # fmt: skip
    """Make the teacher's map out of a part of the student's: what is left must know the rest.

    limbeck distill mgd teacher=... student=... data=... ratio=0.15

    CE + 7e-5 * SUM of squared differences of the last maps, the student's behind a block that leaves out 15 % of the channels
    and generates the whole by two 3x3 convolutions (Yang et al., 2022; numbers of the released classification code). The block
    is not part of the student. A sum: the weight fits maps of 2048 x 7 x 7, smaller ones want more. For CNNs.
    """
    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    return job.stage(o.cross_entropy() + weight * o.summed_squares().on(*taps).projected("generator", ratio=ratio))


@recipe(paper="Variational Information Distillation for Knowledge Transfer", year=2019, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def vid(job: Job, layers: int = 3, weight: float = 1.0, variance: float = 5.0) -> Stage:
    """Let the student's layers tell as much as they can about the teacher's.

    limbeck distill vid teacher=... student=... data=...

    CE + sum over stages of -log of a normal density of the teacher's map given the student's: a mean by three 1x1 convolutions,
    a learned variance for each channel, 5 at first (Ahn et al., 2019; numbers of the CIFAR-100 benchmarks). For CNNs.
    """
    from limbeck.training.inside import spread_layers

    terms = sum(o.variational_information(*pair, variance=variance) for pair in spread_layers(job, layers))
    return job.stage(o.cross_entropy() + weight * terms)


@recipe(paper="Contrastive Representation Distillation", year=2020, field="classifiers", needs=("features", "labels"))
def crd(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", weight: float = 0.8, width: int = 128,
        negatives: int = 16384, temperature: float = 0.07) -> Stage:  # fmt: skip
    """Tell a sample's teacher vector from thousands of others by the student's vector, and the other way round.

    limbeck distill crd teacher=... student=... data=... negatives=16384

    CE + 0.8 * noise-contrastive loss of both sides over pooled features of the last stage, led to 128 numbers of norm 1 by a
    linear map each, against a memory of the training part: K vectors of other classes, the memory mixed by half (Tian et al.,
    2020; numbers of the CIFAR-100 benchmarks). Neither maps nor memory are part of the student.
    """
    taps = job.vectors(student_layer, teacher_layer)
    train = job.data.train
    match = o.contrast(
        *taps, ids=train.ids, labels=train.labels, width=width, negatives=negatives, temperature=temperature
    )
    return job.stage(o.cross_entropy() + weight * match)
