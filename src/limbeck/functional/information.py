"""How much two representations tell about each other: a bound that interpolates between two estimators."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def information_bound(scores: Tensor, baseline: Tensor, *, alpha: float = 0.9) -> Tensor:
    """A lower bound of the mutual information of K pairs, in nats; a scalar, to be made large.

    `scores` [K, K]: row i holds the critic's f(x_j, y_i) for all j; `baseline` [K]: log q(y_i). With m[i, j] the mean of
    exp(scores[i, k]) over k != j and a = alpha m + (1 - alpha) q: 1 + mean over i != j of (scores[i, i] - log a[i, j]) - mean
    over i != j of exp(scores[i, j]) / a[i, i] (Poole et al., 2019; MI-alpha of Distiller, He et al., 2021). alpha 0 is the
    bound of Nguyen, Wainwright and Jordan for critics f - log q, unbiased and of high variance; alpha 1 InfoNCE with one left
    out, at most about log K. Not additive. Raises ValueError for fewer than two pairs and for alpha outside 0 to 1.
    """
    count = len(scores)
    if scores.shape != (count, count) or baseline.shape != (count,) or count < 2 or not 0 <= alpha <= 1:
        raise ValueError(
            f"expected scores [K, K] with K of 2 or more, baseline [K] and alpha from 0 to 1; got {list(scores.shape)}, "
            f"{list(baseline.shape)}, alpha={alpha}"
        )
    # log m[i, j]: of a row, all but its j-th: those before it and those after it, because a difference would cancel
    end = scores.new_full((count, 1), -math.inf)
    before = torch.cat([end, scores.logcumsumexp(1)[:, :-1]], 1)
    after = torch.cat([scores.flip(1).logcumsumexp(1).flip(1)[:, 1:], end], 1)
    left_out = torch.logaddexp(before, after) - math.log(count - 1)
    parts = [left_out + math.log(alpha)] if alpha > 0 else []
    parts += [(baseline + math.log1p(-alpha))[:, None].expand(count, count)] if alpha < 1 else []
    log_a = torch.stack(parts).logsumexp(0)
    others = ~torch.eye(count, dtype=torch.bool, device=scores.device)
    joint = (scores.diagonal()[:, None] - log_a)[others].mean()
    marginal = (scores - log_a.diagonal()[:, None]).exp()[others].mean()
    return 1 + joint - marginal
