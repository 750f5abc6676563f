"""Closed forms of the gradients of the commonest token divergences, for walks over lazy logits.

Each gives the values of a block and the derivative at the student's log probabilities; the softmax's own derivative is
applied once for all terms. Autograd gives the same, in more memory (benchmarks/walk.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.functional.core import UNLABELLED
from limbeck.functional.response import _FAR, _NONE, _kl, cross_entropy, forward_kl, jensen_shannon, reverse_kl
from limbeck.functional.tokens import skew_forward_kl, skew_reverse_kl, total_variation
from limbeck.functional.topk import stored_target, topk_forward_kl
from limbeck.signals.blocks import Block, closed_form


def _positive(temperature: float) -> bool:
    return temperature > 0  # else the formula itself says what is wrong


def _sum(terms: Tensor, log_weights: Tensor) -> Tensor:
    """The sums [rows] of weight * something [rows, V], in which 0 * infinity is 0; `terms` are mended where they are not.

    On a CPU it is looked for in the sums: to look through all terms costs as much as a softmax.
    """
    sums = terms.sum(-1)
    if terms.device.type == "cpu" and math.isfinite(float(sums.sum())):
        return sums
    return terms.masked_fill_(log_weights == -torch.inf, 0).sum(-1)


@closed_form(forward_kl, accepts=_positive)
def _(block: Block, coefficient: Tensor, temperature: float) -> Tensor:
    """T^2 sum_v p (log p - log q): the derivative at log q is -T^2 p."""
    p, log_p, log_q = block.teacher(temperature), block.log_teacher(temperature), block.log_student(temperature)
    block.add(temperature, p, -(temperature**2) * coefficient, 1)
    return _sum(torch.sub(log_p, log_q, out=block.buffer("scratch")).mul_(p), log_p) * temperature**2


@closed_form(reverse_kl, accepts=_positive)
def _(block: Block, coefficient: Tensor, temperature: float) -> Tensor:
    """T^2 sum_v q (log q - log p): the derivative at log q is T^2 q (log q - log p), and a multiple of q that cancels."""
    log_p, log_q = block.log_teacher(temperature), block.log_student(temperature)
    gap = torch.sub(log_q, log_p, out=block.buffer("scratch")).mul_(block.student(temperature))
    sums = _sum(gap, log_q)
    block.add(temperature, gap, temperature**2 * coefficient, sums)
    return sums * temperature**2


@closed_form(cross_entropy, accepts=lambda label_smoothing: not label_smoothing)
def _(block: Block, coefficient: Tensor, label_smoothing: float) -> Tensor:
    """-log q[label]: the derivative at log q is -1 at the label."""
    assert block.labels is not None
    known = block.labels != UNLABELLED
    index = block.labels.where(known, 0)[:, None]
    block.add_at(1.0, index, (-coefficient * known)[:, None])
    return -block.log_student().gather(1, index)[:, 0].where(known, 0)


def _mixed(block: Block, gap: Tensor, weight: float, name: str) -> Tensor:
    """log(m / one), m = weight one + (1 - weight) other, from gap = log(other / one): see `functional.response._mixed`."""
    return torch.expm1(gap, out=block.buffer(name)).mul_(1 - weight).log1p_()


def _gap(block: Block, temperature: float) -> Tensor:
    """log q - log p, within the bounds of `_mixed`."""
    gap = torch.sub(block.log_student(temperature), block.log_teacher(temperature), out=block.buffer("gap"))
    return gap.nan_to_num_(nan=0.0, posinf=_FAR, neginf=-_FAR).clamp_(-_FAR, _FAR)


@closed_form(jensen_shannon, accepts=lambda beta, temperature: 0 < beta < 1 and temperature > 0)
def _(block: Block, coefficient: Tensor, beta: float, temperature: float) -> Tensor:
    """The derivative at log q is (1 - beta) q log(q / m); log(q / m) = gap - log(m / p)."""
    gap = _gap(block, temperature)
    u = _mixed(block, gap, beta, "mixed")
    slope = gap.sub_(u).mul_(block.student(temperature))
    second = slope.sum(-1)
    block.add(temperature, slope, (1 - beta) * coefficient, second)
    first = u.mul_(block.teacher(temperature)).sum(-1)
    return (1 - beta) * second - beta * first


@closed_form(skew_forward_kl, accepts=lambda skew, temperature: 0 < skew < 1 and temperature > 0)
def _(block: Block, coefficient: Tensor, skew: float, temperature: float) -> Tensor:
    """sum p log(p / m), m = skew p + (1 - skew) q: the derivative at log q is -(1 - skew) q p / m."""
    u = _mixed(block, _gap(block, temperature), skew, "mixed")
    values = -torch.mul(u, block.teacher(temperature), out=block.buffer("scratch")).sum(-1)
    slope = u.neg_().add_(block.log_student(temperature)).exp_()  # q p / m
    block.add(temperature, slope, (skew - 1) * coefficient, slope.sum(-1))
    return values


@closed_form(skew_reverse_kl, accepts=lambda skew, temperature: 0 < skew < 1 and temperature > 0)
def _(block: Block, coefficient: Tensor, skew: float, temperature: float) -> Tensor:
    """sum q log(q / m), m = skew q + (1 - skew) p: the derivative at log q is q log(q / m) - skew q q / m, and a multiple
    of q that cancels."""
    w = _mixed(block, _gap(block, temperature).neg_(), skew, "mixed")
    q = block.student(temperature)
    ratio = torch.neg(w, out=block.buffer("scratch")).exp_()
    values = -w.mul_(q).sum(-1)
    slope = w.neg_().addcmul_(q, ratio, value=-skew)
    block.add(temperature, slope, coefficient, slope.sum(-1))
    return values


@closed_form(total_variation, accepts=_positive)
def _(block: Block, coefficient: Tensor, temperature: float) -> Tensor:
    """Half the sum of |q - p|: the derivative at log q is q sign(q - p) / 2."""
    q = block.student(temperature)
    gap = torch.sub(q, block.teacher(temperature), out=block.buffer("scratch"))
    slope = torch.sign(gap, out=block.buffer("mixed")).mul_(q)
    block.add(temperature, slope, 0.5 * coefficient, slope.sum(-1))
    return 0.5 * gap.abs_().sum(-1)


@closed_form(topk_forward_kl, accepts=lambda k, temperature, missing, floor: (
    k > 0 and temperature > 0 and missing == "rest" and not floor))  # fmt: skip
def _(block: Block, coefficient: Tensor, k: int, temperature: float, missing: str, floor: float) -> Tensor:
    """sum_i p_i (log p_i - log q_i) over the teacher's k classes and the rest, a class of its own: the derivative at log q is
    -p at the k, and -p_rest q / q_rest at the others."""
    ids, log_p, log_tail = block.largest(k)
    target, log_q = stored_target(log_p, log_tail, temperature), block.log_student(temperature)
    others = block.buffer("mixed").copy_(log_q).scatter_(1, ids, -torch.inf)
    most = others.amax(-1, keepdim=True).clamp(min=_NONE)
    mass = others.sub_(most).exp_().sum(-1)
    log_rest = torch.log(mass) + most[:, 0]
    p = target.exp()
    block.add(temperature, others, (-coefficient * p[:, -1] / mass).where(p[:, -1] > 0, 0), mass)
    block.add_at(temperature, ids, -coefficient[:, None] * p[:, :-1])
    return _kl(target, torch.cat([log_q.gather(1, ids), log_rest[:, None]], -1))
