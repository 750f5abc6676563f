"""Divergences between next-token distributions: logits [..., vocabulary], values [...], no T^2 unless it is said.

They are as good for classes as for tokens. Teachers are detached; log-softmax forms throughout, so that large logits and
-inf of a cut vocabulary stay finite. Values are true divergences (zero at equality), where released code often leaves
out the target's entropy: the gradients are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.functional.core import Reduction, objective, reduce
from limbeck.functional.response import _kl, _log_softmax, _mixed, _soft_cross_entropy


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number from 0 to 1")
    return value


def _skewed(one: Tensor, other: Tensor, skew: float) -> Tensor:
    """KL(one || skew one + (1 - skew) other) of log-probabilities over the last axis."""
    if skew == 0:
        return _kl(one, other)
    return (one - one).nan_to_num().sum(-1) if skew == 1 else -(one.exp() * _mixed(one, other, skew)).sum(-1)


@objective(per="item", student="logits", teacher="logits")
def total_variation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
                    reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Half the sum of |p_T - p_S| over [..., vocabulary]. Values [...], 0 to 1: bounded, so that no token dominates.

    Its gradient vanishes where the supports are disjoint: use it after a warm start (f-DISTILL, Wen et al., 2023).
    """
    gap = _log_softmax(teacher.detach(), temperature).exp() - _log_softmax(student, temperature).exp()
    return reduce(0.5 * gap.abs().sum(-1), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def skew_forward_kl(student: Tensor, teacher: Tensor, *, skew: float = 0.1, temperature: float = 1.0,
                    mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(p_T || skew p_T + (1 - skew) p_S) of logits [..., vocabulary]; values [...], at most -log skew.

    The forward KL at skew 0 (DistiLLM, Ko et al., 2024, with skew 0.1; its code leaves out the entropy).
    """
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)
    return reduce(_skewed(t, s, _share(skew, "skew")), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def skew_reverse_kl(student: Tensor, teacher: Tensor, *, skew: float = 0.1, temperature: float = 1.0,
                    mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(p_S || skew p_S + (1 - skew) p_T) of logits [..., vocabulary]; values [...], at most -log skew.

    The reverse KL at skew 0 (DistiLLM, Ko et al., 2024, with skew 0.1).
    """
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)
    return reduce(_skewed(s, t, _share(skew, "skew")), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def adaptive_kl(student: Tensor, teacher: Tensor, *, head: float = 0.5, temperature: float = 1.0,
                mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """w KL(p_T || p_S) + (1 - w) KL(p_S || p_T), w the share of the gap |p_T - p_S| that lies in the teacher's head.

    The head is the smallest set of most likely classes with a mass of `head` or more; w is detached. Logits
    [..., vocabulary], values [...] (adaptive KL, Wu et al., 2024; released code masks unsorted gaps by sorted logits and
    lets the gradient into w, which this does not follow).
    """
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)
    with torch.no_grad():
        p, order = t.exp().sort(-1, descending=True)
        inside = p.cumsum(-1) - p < _share(head, "head")
        gap = (t.exp() - s.exp()).abs().gather(-1, order)
        total = gap.sum(-1)
        w = torch.where(total > 0, (gap * inside).sum(-1) / total.clamp(min=1e-30), 0.5)
    return reduce(w * _kl(t, s) + (1 - w) * _kl(s, t), mask, reduction)


def _between(student: Tensor, teacher: Tensor, share: float, temperature: float) -> Tensor:
    """log softmax of ((1 - share) z_S + share z_T) / temperature, detached."""
    s, t = _log_softmax(student.detach()), _log_softmax(teacher.detach())
    # a zero share of an infinite logit is no number
    between = t if _share(share, "share") == 1 else s if share == 0 else (1 - share) * s + share * t
    return _log_softmax(between, temperature)


@objective(per="item", student="logits", teacher="logits")
def interpolated_forward_kl(student: Tensor, teacher: Tensor, *, share: float = 0.4, temperature: float = 1.0,
                            mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(r || p_S), r = softmax((1 - share) z_S + share z_T) with z_S detached: the target is on the way to the teacher.

    Logits [..., vocabulary], values [...]; zero at share 0, the forward KL at share 1 (TAID, Shing et al., 2025, whose
    pace sets the share).
    """
    target = _between(student, teacher, share, temperature)
    return reduce(_kl(target, _log_softmax(student, temperature)), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def interpolated_cross_entropy(student: Tensor, teacher: Tensor, *, share: float = 0.4, temperature: float = 1.0,
                               mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum r log p_S, r as in `interpolated_forward_kl`: the same gradient, and the entropy of the target on top.

    Logits [..., vocabulary], values [...]. What TAID's pace follows (Shing et al., 2025).
    """
    target = _between(student, teacher, share, temperature).exp()
    return reduce(_soft_cross_entropy(target, _log_softmax(student, temperature)), mask, reduction)
