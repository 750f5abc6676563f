"""Formulas over scores of candidates that come in levels, and over ratings of people."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import Reduction, objective, reduce


@objective(per="item", student="logits")
def multi_level_ranking(student: Tensor, *, levels: int = 3, lower: float = 0.3, upper: float = 0.1,
                        mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Levels of candidates apart, each together, in their order: separation + compactness + order. Values [rows].

    Scores [rows, candidates] from 0 to 1, the candidates in equal groups from the best level to the worst; c_i is the mean of
    level i. Separation: sum over i < j of relu(lower (j - i) - |c_i - c_j|). Compactness: sum over levels of
    relu(mean |x - c_i| - upper). Order: sum over i < j of relu(|c_j| - |c_i|). Source: QuantiDCE (Ye et al., 2021).
    """
    if student.shape[1] % levels or levels < 2:
        raise ArgumentError(
            f"{student.shape[1]} candidates do not fall into levels={levels} of equal size: give a multiple, 2 levels or more."
        )
    grouped = student.unflatten(1, (levels, -1))
    centres = grouped.mean(2)
    value = F.relu((grouped - centres[..., None]).abs().mean(2) - upper).sum(1)
    for better in range(levels):
        for worse in range(better + 1, levels):
            gap = (centres[:, better] - centres[:, worse]).abs()
            value = value + F.relu(lower * (worse - better) - gap)
            value = value + F.relu(centres[:, worse].abs() - centres[:, better].abs())
    return reduce(value, mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def rating_mse(student: Tensor, teacher: Tensor, *, low: float = 1.0, high: float = 5.0, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean over candidates of (low + (high - low) sigmoid(z) - r)^2, logits z and ratings r [rows, candidates]. Values [rows].

    Source: the calibration of QuantiDCE (Ye et al., 2021), ratings from 1 to 5.
    """
    return reduce((low + (high - low) * student.sigmoid() - teacher.detach()).square().mean(1), mask, reduction)
