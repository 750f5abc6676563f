"""Formulas over relations between the samples of a batch: one value per batch, not additive over micro-batches.

Features [batch, ...]; student and teacher may have different widths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck.functional.core import objective


@objective(per="batch", student="features", teacher="features")
def gram_rows_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the row-normalised Gram matrices of [batch, ...], summed and divided by batch^2; a scalar.

    Source: similarity-preserving distillation (Tung and Mori, 2019).
    """

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return F.normalize(flat @ flat.T)

    return (gram(teacher.detach()) - gram(student)).square().mean()


def _distances(features: Tensor, squared: bool) -> Tensor:
    flat = features.flatten(1)
    squares = flat.square().sum(1)
    found = (squares[:, None] + squares[None, :] - 2 * flat @ flat.T).clamp(
        min=1e-12
    )  # before the root: its slope at 0
    found = found if squared else found.sqrt()
    return found.masked_fill(torch.eye(len(flat), dtype=torch.bool, device=flat.device), 0)


@objective(per="batch", student="features", teacher="features")
def relation_distance(student: Tensor, teacher: Tensor, *, squared: bool = False) -> Tensor:
    """Smooth-L1 between the Euclidean distance matrices of [batch, ...], each over the mean of its positive entries.

    A scalar, the mean over batch^2 entries; 0 for one sample. `squared` leaves out the root (RKD-D, Park et al., 2019).
    """
    teacher = _distances(teacher.detach(), squared)
    student = _distances(student, squared)
    if len(student) < 2:
        return student.sum() * 0
    return F.smooth_l1_loss(student / student[student > 0].mean(), teacher / teacher[teacher > 0].mean())


@objective(per="batch", student="features", teacher="features")
def relation_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth-L1 between the cosines of the angles of all triples of samples of [batch, ...]; the mean over batch^3.

    Computed anchor by anchor and recomputed for the gradient, so that memory grows with batch^2, not batch^3: at 256
    samples of width 64 in float32, two blocks of 16 anchors, 8 MB each (RKD-A, Park et al., 2019).
    """
    teacher, student = teacher.detach().flatten(1), student.flatten(1)
    count, total = len(student), student.new_zeros(())
    for start in range(0, count, 16):
        anchors = slice(start, start + 16)
        total = total + checkpoint(_angles, student, teacher, student[anchors], teacher[anchors], use_reentrant=False)
    return total / count**3


def _angles(student: Tensor, teacher: Tensor, student_anchors: Tensor, teacher_anchors: Tensor) -> Tensor:
    def cosines(features: Tensor, anchors: Tensor) -> Tensor:
        edges = F.normalize(features[None] - anchors[:, None], dim=2)
        return edges @ edges.transpose(1, 2)

    return F.smooth_l1_loss(cosines(student, student_anchors), cosines(teacher, teacher_anchors), reduction="sum")


@objective(per="batch", student="features", teacher="features")
def neighbour_kl(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """KL between what student and teacher say of how likely each sample of [batch, ...] is a neighbour of each other; a scalar.

    A row of P is (cosine + 1) / 2 to all samples, itself included, divided by its sum. P_T log((P_T + eps) / (P_S + eps)), the
    MEAN over batch^2 entries: `batch` times smaller than the mean over rows (PKT, Passalis and Tefas, 2018; the reduction of
    the CIFAR-100 benchmarks). Blind to a rotation of all samples and to the length of each; 0 for one sample.
    """

    def neighbours(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        flat = flat / (flat.norm(dim=1, keepdim=True) + eps)
        similar = ((flat @ flat.T + 1) / 2).clamp(min=0)  # rounding can put a cosine below -1
        return similar / similar.sum(1, keepdim=True)

    p, q = neighbours(teacher.detach()), neighbours(student)
    return (p * ((p + eps) / (q + eps)).log()).mean()


@objective(per="batch", student="features", teacher="features")
def consecutive_error_product(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the errors of samples that follow each other go together: sum over features of |e_i| |e_(i+1)|; a scalar.

    e = student - teacher, [batch, ...] of one shape; the mean over the batch - 1 pairs of neighbours in its order, 0 for one
    sample (the form of correlation congruence, Peng et al., 2019, in the CIFAR-100 benchmarks: the paper compares kernel
    matrices). Raises ValueError for unequal shapes.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {list(student.shape)} and teacher {list(teacher.shape)} have different shapes: put a projector behind "
            "the student's signal, .projected('linear') for vectors or 'conv' for maps"
        )
    error = (student - teacher.detach()).abs().flatten(1)
    return (error[:-1] * error[1:]).sum() / max(len(error) - 1, 1)


def _centred(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return flat - flat.mean(0)


def cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> Tensor:
    """Linear centred kernel alignment of [samples, ...] and [samples, ...]: 1 for equal up to rotation and scale; a scalar.

    `debiased` uses the U-statistic of HSIC: the plain one is near 1 whenever features outnumber samples
    (Kornblith et al., 2019; Nguyen et al., 2021). It needs 4 samples.
    """
    if not debiased:
        a, b = _centred(x), _centred(y)
        return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()).clamp(min=1e-12)
    k, l = (features.flatten(1) @ features.flatten(1).T for features in (x, y))
    return _hsic(k, l) / (_hsic(k, k) * _hsic(l, l)).sqrt()


def _hsic(k: Tensor, l: Tensor) -> Tensor:
    n = len(k)
    off = ~torch.eye(n, dtype=torch.bool, device=k.device)
    k, l = k * off, l * off
    return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)) / (
        n * (n - 3)
    )


def cka_rbf(x: Tensor, y: Tensor, *, threshold: float = 0.8) -> Tensor:
    """Centred kernel alignment of [samples, ...] with kernels exp(-d^2 / (2 h^2)), h^2 = threshold^2 median d^2; a scalar.

    The median is over all n^2 squared distances, the zeros of the diagonal included (Kornblith et al., 2019).
    """

    def kernel(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        squares = torch.cdist(flat, flat).square()
        found = torch.exp(-squares / (2 * threshold**2 * squares.flatten().quantile(0.5)))
        return found - found.mean(0) - found.mean(1, keepdim=True) + found.mean()

    k, l = kernel(x), kernel(y)
    return (k * l).sum() / (k.norm() * l.norm())


@objective(per="batch", student="features", teacher="features")
def cka_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - linear CKA of [batch, ...]; a scalar, 0 where the representations are equal up to rotation and scale.

    Source: the measure of Kornblith et al., 2019, as a loss.
    """
    return 1 - cka(student, teacher.detach())
