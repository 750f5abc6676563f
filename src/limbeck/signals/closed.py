"""Closed forms of the gradients of the commonest token divergences, for walks over lazy logits.

Each gives the values of a block and the derivative at the student's log probabilities; the softmax's own derivative is
applied once for all terms. Autograd gives the same, in more memory (benchmarks/walk.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.functional.core import UNLABELLED
from limbeck.functional.response import cross_entropy, forward_kl, reverse_kl
from limbeck.signals.blocks import Block, closed_form


def _positive(temperature: float) -> bool:
    return temperature > 0  # else the formula itself says what is wrong


@closed_form(forward_kl, accepts=_positive)
def _(block: Block, coefficient: Tensor, temperature: float) -> Tensor:
    """T^2 sum_v p (log p - log q): the derivative at log q is -T^2 p."""
    p, log_p, log_q = block.teacher(temperature), block.log_teacher(temperature), block.log_student(temperature)
    block.add(temperature, p, -(temperature**2) * coefficient)
    gap = torch.sub(log_p, log_q, out=block.buffer("scratch")).mul_(p)
    return gap.masked_fill_(log_p == -torch.inf, 0).sum(-1) * temperature**2


@closed_form(reverse_kl, accepts=_positive)
def _(block: Block, coefficient: Tensor, temperature: float) -> Tensor:
    """T^2 sum_v q (log q - log p): the derivative at log q is T^2 q (log q - log p), and a multiple of q that cancels."""
    log_p, log_q = block.log_teacher(temperature), block.log_student(temperature)
    q, gap = torch.exp(log_q, out=block.buffer("q")), torch.sub(log_q, log_p, out=block.buffer("scratch"))
    gap.mul_(q).masked_fill_(log_q == -torch.inf, 0)
    block.add(temperature, gap, temperature**2 * coefficient)
    return gap.sum(-1) * temperature**2


@closed_form(cross_entropy, accepts=lambda label_smoothing: not label_smoothing)
def _(block: Block, coefficient: Tensor, label_smoothing: float) -> Tensor:
    """-log q[label]: the derivative at log q is -1 at the label."""
    assert block.labels is not None
    known = block.labels != UNLABELLED
    index = block.labels.where(known, 0)
    block.add_at(1.0, index, -coefficient * known)
    return -block.log_student().gather(1, index[:, None])[:, 0].where(known, 0)
