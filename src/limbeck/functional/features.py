"""Formulas over what is inside: maps [batch, channels, height, width], tokens [batch, tokens, width], vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import Reduction, objective, reduce


@objective(per="item", student="features", teacher="features")
def feature_mse(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of a sample's features, over all axes but the first of [batch, ...]. Values [batch].

    The mean over samples is the mean over all elements (FitNets, Romero et al., 2015).
    """
    values = (student - teacher.detach()).square()
    return reduce(values.flatten(1).mean(1) if values.ndim > 1 else values, mask, reduction)


@objective(per="item", student="features", teacher="features")
def feature_l1(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean absolute difference of a sample's features, over all axes but the first of [batch, ...]. Values [batch]."""
    values = (student - teacher.detach()).abs()
    return reduce(values.flatten(1).mean(1) if values.ndim > 1 else values, mask, reduction)


@objective(per="item", student="features", teacher="features")
def cosine_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                    reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """1 - cosine over the last axis of [..., width]. Values [...], 0 to 2 (the hidden-state term of DistilBERT, 2019)."""
    return reduce(1 - F.cosine_similarity(student, teacher.detach(), dim=-1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def squared_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                     reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Squared Euclidean distance over the last axis of [..., width], a sum. Values [...].

    Of vectors of length 1 it is 2 - 2 cos (LEAF, 2025). The mean over elements is `width` times smaller.
    """
    return reduce((student - teacher.detach()).square().sum(-1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def euclidean_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Euclidean distance over the last axis of [..., width]. Values [...]; where both are equal, its gradient is 0."""
    square = (student - teacher.detach()).square().sum(-1)
    return reduce(square.clamp(min=1e-30).sqrt().where(square > 0, 0.0), mask, reduction)


@objective(per="item", student="features", teacher="features")
def attention_map_mse(student: Tensor, teacher: Tensor, *, power: float = 2.0, mask: Tensor | None = None,
                      reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over positions of (A_S - A_T)^2, A the L2-normalised mean over channels of f^power. Values [batch].

    Maps [batch, channels, height, width]; channels may differ, and the larger map is average-pooled to the smaller
    before the power (attention transfer, Zagoruyko and Komodakis, 2017; the reduction of the CIFAR-100 benchmarks).
    """
    teacher = teacher.detach()
    if student.shape[2] > teacher.shape[2]:
        student = F.adaptive_avg_pool2d(student, (teacher.shape[2], teacher.shape[3]))
    elif student.shape[2] < teacher.shape[2]:
        teacher = F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3]))

    def attention(maps: Tensor) -> Tensor:
        return F.normalize(maps.pow(power).mean(1).flatten(1))

    return reduce((attention(student) - attention(teacher)).square().mean(1), mask, reduction)
