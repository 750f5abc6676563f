"""Formulas over what is inside: maps [batch, channels, height, width], tokens [batch, tokens, width], vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import Reduction, objective, reduce, same_shape
from limbeck.functional.maps import of_one_size


@objective(per="item", student="features", teacher="features")
def feature_mse(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of a sample's features, over all axes but the first of [batch, ...]. Values [batch].

    The mean over samples is the mean over all elements (FitNets, Romero et al., 2015).
    """
    student, teacher = same_shape(student, teacher)
    values = (student - teacher).square()
    return reduce(values.flatten(1).mean(1) if values.ndim > 1 else values, mask, reduction)


@objective(per="item", student="features", teacher="features")
def feature_l1(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean absolute difference of a sample's features, over all axes but the first of [batch, ...]. Values [batch]."""
    student, teacher = same_shape(student, teacher)
    values = (student - teacher).abs()
    return reduce(values.flatten(1).mean(1) if values.ndim > 1 else values, mask, reduction)


@objective(per="item", student="features", teacher="features")
def cosine_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                    reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """1 - cosine over the last axis of [..., width]. Values [...], 0 to 2 (the hidden-state term of DistilBERT, 2019)."""
    return reduce(1 - F.cosine_similarity(*same_shape(student, teacher), dim=-1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def squared_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                     reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Squared Euclidean distance over the last axis of [..., width], a sum. Values [...].

    Of vectors of length 1 it is 2 - 2 cos (LEAF, 2025). The mean over elements is `width` times smaller.
    """
    student, teacher = same_shape(student, teacher)
    return reduce((student - teacher).square().sum(-1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def euclidean_distance(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Euclidean distance over the last axis of [..., width]. Values [...]; where both are equal, its gradient is 0."""
    student, teacher = same_shape(student, teacher)
    square = (student - teacher).square().sum(-1)
    return reduce(square.clamp(min=1e-30).sqrt().where(square > 0, 0.0), mask, reduction)


@objective(per="item", student="features", teacher="features")
def attention_map_mse(student: Tensor, teacher: Tensor, *, power: float = 2.0, mask: Tensor | None = None,
                      reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over positions of (A_S - A_T)^2, A the L2-normalised mean over channels of f^power. Values [batch].

    Maps [batch, channels, height, width]; channels may differ, and the larger map is average-pooled to the smaller
    before the power (attention transfer, Zagoruyko and Komodakis, 2017; the reduction of the CIFAR-100 benchmarks).
    """
    student, teacher = _energies(student, teacher.detach(), power)
    return reduce((student - teacher).square().mean(1), mask, reduction)


def _energies(student: Tensor, teacher: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """The L2-normalised spatial energies [batch, positions] of both, the larger map average-pooled first."""
    student, teacher = of_one_size(student, teacher)

    def energy(maps: Tensor) -> Tensor:
        return F.normalize(maps.pow(power).mean(1).flatten(1))

    return energy(student), energy(teacher)


@objective(per="item", student="features", teacher="features")
def factor_l1(student: Tensor, teacher: Tensor, *, power: float = 2.0, mask: Tensor | None = None,
              reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over positions of |A_S - A_T|, A the L2-normalised mean over channels of f^power. Values [batch].

    Maps [batch, channels, height, width], pooled to one size as in `attention_map_mse`; channels may differ. For the outputs
    of a translator and a paraphraser (factor transfer, Kim et al., 2018; the reduction of the CIFAR-100 benchmarks).
    """
    student, teacher = _energies(student, teacher.detach(), power)
    return reduce((student - teacher).abs().mean(1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def hierarchical_context_mse(student: Tensor, teacher: Tensor, *, sizes: Sequence[int] = (4, 2, 1),
                             mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """MSE of the maps and of the maps pooled to ever smaller sizes, each half of the last one's weight. Values [batch].

    (MSE + sum_k 2^-k MSE_k) / (1 + sum_k 2^-k) of [batch, channels, height, width], k counting those of `sizes` that are
    below the height; each MSE the mean over a sample's elements. Vectors [batch, width] have the plain one (ReviewKD's HCL,
    Chen et al., 2021).
    """
    student, teacher = same_shape(student, teacher)
    total, weight, norm = (student - teacher).square().flatten(1).mean(1), 1.0, 1.0
    for size in sizes if student.ndim == 4 else ():
        if size < student.shape[2]:
            weight, pooled = weight / 2, [F.adaptive_avg_pool2d(maps, (size, size)) for maps in (student, teacher)]
            total, norm = total + weight * (pooled[0] - pooled[1]).square().flatten(1).mean(1), norm + weight
    return reduce(total / norm, mask, reduction)


@objective(per="item", student="features", teacher="features")
def activation_boundary(student: Tensor, teacher: Tensor, *, margin: float = 1.0, mask: Tensor | None = None,
                        reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Sum over a sample of (s + m)^2 where s > -m and t <= 0, and (s - m)^2 where s <= m and t > 0. Values [batch].

    Values before an activation, [batch, ...]: the student's need only lie on the teacher's side of 0, by the margin m
    (activation boundaries, Heo et al., 2019). A sum: it grows with the layer.
    """
    student, teacher = same_shape(student, teacher)
    active = teacher > 0
    low, high = (student + margin).clamp(min=0).square(), (margin - student).clamp(min=0).square()
    values = high.where(active, low)
    return reduce(values.flatten(1).sum(1), mask, reduction)
