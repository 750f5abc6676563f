"""Formulas over maps [batch, channels, height, width]: where a channel is active, and how stages lead on to each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import Reduction, objective, reduce, same_shape


def of_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [batch, channels, height, width], the higher one average-pooled to the size of the other.

    Raises SignalError for what are no maps.
    """
    for value in (first, second):
        if value.ndim != 4:
            raise SignalError(
                f"This compares maps [batch, channels, height, width], and a signal is {list(value.shape)}. Tap a layer that "
                "gives maps, or compare vectors and tokens by relations: rkd, pkt, cka."
            )
    if first.shape[2] > second.shape[2]:
        return F.adaptive_avg_pool2d(first, (second.shape[2], second.shape[3])), second
    if first.shape[2] < second.shape[2]:
        return first, F.adaptive_avg_pool2d(second, (first.shape[2], first.shape[3]))
    return first, second


@objective(per="item", student="features", teacher="features")
def channel_mmd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """How far the channels of two maps, as two sets of patterns over positions, lie apart. Values [batch].

    k(T, T) + k(S, S) - 2 k(S, T), k the mean over pairs of channels of (u . v)^2 and u a channel divided by its norm over
    positions: the squared maximum mean discrepancy under a polynomial kernel of degree 2 (neuron selectivity transfer, Huang
    and Wang, 2017; the reduction of the CIFAR-100 benchmarks). Channels may differ in number and come in any order; the higher
    map is average-pooled first.
    """
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in of_one_size(student, teacher.detach()))

    def alike(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).square().mean((1, 2))

    return reduce(alike(t, t) + alike(s, s) - 2 * alike(s, t), mask, reduction)


@objective(per="item", student="features", teacher="features")
def channel_kl(student: Tensor, teacher: Tensor, *, temperature: float = 4.0, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """tau^2 times the mean over channels of KL(teacher || student) between softmaxes over positions. Values [batch].

    Maps of one shape: each channel says where it looks, and how strong it is does not count (channel-wise distillation, Shu et
    al., 2021).
    """
    of_one_size(student, teacher)  # says what are no maps
    student, teacher = same_shape(student, teacher)
    log_p = (teacher.flatten(2) / temperature).log_softmax(-1)
    log_q = (student.flatten(2) / temperature).log_softmax(-1)
    values = (log_p.exp() * (log_p - log_q)).sum(-1).mean(1) * temperature**2
    return reduce(values, mask, reduction)


@objective(per="item", student="features", teacher="features")
def summed_squares(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                   reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """The SUM over a sample's elements [batch, ...] of squared differences. Values [batch]; it grows with the layer.

    With a mean over the batch, the reduction of masked generative distillation (Yang et al., 2022).
    """
    student, teacher = same_shape(student, teacher)
    return reduce((student - teacher).square().flatten(1).sum(1), mask, reduction)


def solution_flow(first: Tensor, second: Tensor) -> Tensor:
    """How each channel of one stage goes with each of the next: the mean over positions of their products.

    Maps [batch, a, height, width] and [batch, b, ...], the higher one average-pooled first; [batch, a, b] (the flow of a
    solution procedure, Yim et al., 2017).
    """
    first, second = (maps.flatten(2) for maps in of_one_size(first, second))
    return first @ second.transpose(1, 2) / first.shape[2]


def gaussian_nll(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """1/2 ((mean - target)^2 / variance + log variance), the mean over all elements of a sample. Values [batch].

    `mean` and `target` [batch, channels, ...], `variance` [channels]: what is left, but for a constant, of the negative
    logarithm of a normal density; a bound on the mutual information of both layers (VID, Ahn et al., 2019). It can be below 0.
    """
    spread = variance.view(-1, *[1] * (mean.ndim - 2))
    values = ((mean - target.detach()).square() / spread + spread.log()) / 2
    return values.flatten(1).mean(1)


def noise_contrast(true: Tensor, noise: Tensor, samples: int, eps: float = 1e-7) -> Tensor:
    """How badly a true pair is told from `noise` pairs. Values [batch].

    `true` [batch] and `noise` [batch, count] are scores above 0 that stand for densities relative to a uniform draw, for which
    they are 1 / `samples`: -log(true / (true + c)) - sum log(c / (noise + c)), c = count / samples, with eps beside each c in a
    denominator (noise-contrastive estimation, as contrastive representation distillation has it, Tian et al., 2020).
    """
    share = noise.shape[1] / samples
    return -(true / (true + share + eps)).log() - (share / (noise + share + eps)).log().sum(1)
