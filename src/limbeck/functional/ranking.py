"""Formulas over the scores of a query's candidates."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import Reduction, objective, reduce


@objective(per="item", student="logits", teacher="logits")
def margin_mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over negatives of ((s+ - s-) - (t+ - t-))^2, scores [rows, candidates], the positive first. Values [rows].

    A constant that is added to all of one side's scores changes nothing; a factor does. The teacher may find a negative
    better than the positive: its margin is then below 0, and kept. Source: Hofstaetter et al., 2020.
    """
    teacher = teacher.detach()
    gaps = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
    return reduce(gaps.square().mean(1), mask, reduction)


@objective(per="batch", student="logits")
def in_batch_contrastive(student: Tensor) -> Tensor:
    """Mean over rows of -log softmax(s)[0], scores [rows, candidates of all rows], each row's own positive first.

    One value for a batch: its rows are each other's negatives, so that micro-batches would be another task. Source: Karpukhin
    et al., 2020.
    """
    return -student.log_softmax(-1)[:, 0].mean()


@objective(per="item", student="logits", teacher="logits")
def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                              reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over candidates of -(t log sigmoid(z) + (1 - t) log(1 - sigmoid(z))), z logits, t from 0 to 1. Values [rows].

    z and t [rows, candidates]. Not 0 at equality, where it is the entropy of t; its gradient is (sigmoid(z) - t) / candidates.
    Source: the cross-encoder's loss of Trans-Encoder (Liu et al., 2022).
    """
    return reduce(
        F.binary_cross_entropy_with_logits(student, teacher.detach(), reduction="none").mean(1), mask, reduction
    )
