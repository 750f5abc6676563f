"""Multi-level logit distillation: predictions compared sample by sample, between samples, and between classes.

Logits [batch, classes]; each formula is a sum over temperatures and looks at a whole batch. `share` keeps the least confident
part of it, as the paper means it: the released code multiplies a mean by the mask, which only scales it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from limbeck.functional.core import objective
from limbeck.functional.response import _kl, _log_softmax

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def least(values: Tensor, share: float) -> Tensor:
    """Which of values [n] are at most their quantile `share` (ties are kept), as 0 and 1 [n]; all at 1."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r}: expected a number above 0 and at most 1")
    return values.new_ones(len(values)) if share == 1 else (values <= values.quantile(share)).to(values.dtype)


def _confidence(teacher: Tensor, share: float) -> Tensor:
    return least(_log_softmax(teacher.detach()).exp().amax(1), share)


@objective(per="batch", student="logits", teacher="logits")
def instance_alignment(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES, share: float = 1.0
) -> Tensor:
    """Sum over temperatures T of T^2 KL(p_T || p_S), the mean over the batch; a scalar. Logits [batch, classes].

    Samples whose teacher is surer than the quantile `share` of the batch (largest probability at T = 1) count as 0 in the
    mean (MLLD, Jin et al., 2023). Not additive over micro-batches.
    """
    values = student.new_zeros(len(student))
    for t in temperatures:
        values = values + t**2 * _kl(_log_softmax(teacher.detach(), t), _log_softmax(student, t))
    return (values * _confidence(teacher, share)).mean()


@objective(per="batch", student="logits", teacher="logits")
def batch_alignment(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES, share: float = 1.0
) -> Tensor:
    """Sum over temperatures of |P_T P_T^T - P_S P_S^T|^2 / batch, P the probabilities [batch, classes]; a scalar, no T^2.

    Only the rows of samples whose teacher is no surer than the quantile `share` of the batch, each against all samples (MLLD,
    Jin et al., 2023). Not additive over micro-batches.
    """
    return _grams(student, teacher, temperatures, _confidence(teacher, share), lambda p: p @ p.T)


@objective(per="batch", student="logits", teacher="logits")
def class_alignment(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES, share: float = 1.0
) -> Tensor:
    """Sum over temperatures of |P_T^T P_T - P_S^T P_S|^2 / classes, P the probabilities [batch, classes]; a scalar, no T^2.

    Only the rows of classes to which the teacher gives no more of the batch than the quantile `share` of the classes, each
    against all classes (MLLD, Jin et al., 2023). Not additive over micro-batches.
    """
    mass = _log_softmax(teacher.detach()).exp().sum(0)
    return _grams(student, teacher, temperatures, least(mass, share), lambda p: p.T @ p)


def _grams(student: Tensor, teacher: Tensor, temperatures: Sequence[float], kept: Tensor,
           gram: Callable[[Tensor], Tensor]) -> Tensor:  # fmt: skip
    total = student.new_zeros(())
    for t in temperatures:
        p, q = _log_softmax(teacher.detach(), t).exp(), _log_softmax(student, t).exp()
        total = total + (kept[:, None] * (gram(p) - gram(q)).square()).sum() / len(kept)
    return total
