"""Whole answers: their log-probabilities, and losses over chosen, rejected or ranked ones.

Logits [batch, tokens, vocabulary] and labels [batch, tokens] that belong to the same rows (the label of row i is the token
that row i predicts); -100 leaves a position out. `limbeck.signals` has the same scores of lazy logits, which are never whole,
and fewer copies of whole ones. Scores of answers are natural logarithms, [pairs] or [..., answers].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import UNLABELLED, Reduction, reduce


def label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """log p[label] [...] of logits [..., vocabulary] and labels [...], 0 where the label is -100. In float32 at least."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    values = -F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=UNLABELLED, reduction="none"
    )  # without a second [..., vocabulary], and 0 where there is no label
    return values.view(labels.shape)


def sequence_log_probabilities(logits: Tensor, labels: Tensor, *, average: bool = False) -> Tensor:
    """Sum over the labelled tokens of log p[label]: [batch] of logits [batch, tokens, vocabulary], labels [batch, tokens].

    `average` divides by their number (by 1 where there is none).
    """
    values = label_log_probabilities(logits, labels)
    return per_sequence(values, labels != UNLABELLED, average=average)


def per_sequence(values: Tensor, mask: Tensor, *, average: bool = True) -> Tensor:
    """Sums [batch] of values [batch, tokens] over the tokens of a mask [batch, tokens], divided by their number if `average`.

    For objectives whose papers average over sequences (FIRST, AlignDistil, REDI): short ones weigh as much as long ones,
    which a mean over tokens does not do. 0 for a sequence without tokens.
    """
    weight = mask.to(values.dtype)
    sums = (values.where(weight != 0, 0) * weight).sum(-1)
    return sums / weight.sum(-1).clamp(min=1) if average else sums


def dpo(chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, *, beta: float = 0.1,
        label_smoothing: float = 0.0, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-log sigmoid(beta ((chosen - chosen_reference) - (rejected - rejected_reference))) of log-probabilities [pairs].

    The sums of `sequence_log_probabilities` of the student and of a frozen reference, whose values are detached. Values
    [pairs], log 2 where nothing has moved. `label_smoothing` is the probability that a pair was labelled the wrong way
    round (DPO, Rafailov et al., 2023; conservative DPO, Mitchell, 2023).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ArgumentError(f"label_smoothing={label_smoothing!r}: expected a probability from 0 to below 0.5.")
    gap = beta * ((chosen - chosen_reference.detach()) - (rejected - rejected_reference.detach()))
    values = -(1 - label_smoothing) * F.logsigmoid(gap) - label_smoothing * F.logsigmoid(-gap)
    return reduce(values, mask, reduction)


def redi(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, *, alpha: float = 0.8,
         gamma: float | None = None, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-log pi(y_w)/|y_w| + alpha log pi(y_l)/|y_l| of sums of log-probabilities [pairs]; lengths in tokens [pairs] (>= 1).

    Values [pairs], unbounded below: stop, or lower the rate, when the chosen ones fall too. alpha 0 is SFT on the chosen, 1
    the symmetric, unstable form. `gamma` weighs the second term by (pi(y_l)^(1/|y_l|))^gamma, with gradient: negatives that
    are unlikely already are pushed less (REDI, Xu et al., 2025).
    """
    good, bad = chosen / chosen_lengths.clamp(min=1), rejected / rejected_lengths.clamp(min=1)
    weight = 1.0 if gamma is None else torch.exp(gamma * bad)
    return reduce(-good + alpha * weight * bad, mask, reduction)


def _in_order(scores: Tensor, order: Tensor | None) -> Tensor:
    return scores if order is None else scores.gather(-1, order)


def ranked_hinge(scores: Tensor, order: Tensor | None = None, *, margin: float = 0.0, mask: Tensor | None = None,
                 reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Sum over pairs (i better than j) of relu(margin + s_j - s_i) of the scores [..., answers] of one prompt's answers.

    `order` [..., answers] lists the answers best first (default: as they stand). Values [...]. A score is the mean
    log-probability of an answer's tokens (RRHF, Yuan et al., 2023; CycleAlign, Hong et al., 2023).
    """
    s = _in_order(scores, order)
    gaps = (margin + s[..., None, :] - s[..., :, None]).clamp(min=0)  # [i, j]: j against the better i
    return reduce(gaps.triu(1).sum((-2, -1)), mask, reduction)


def ranked_plackett_luce(scores: Tensor, order: Tensor | None = None, *, mask: Tensor | None = None,
                         reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum_k (s_k - logsumexp_{j >= k} s_j) over scores [..., answers] in the order best first. Values [...].

    The negative log-probability of that order when answers are drawn one after another by their scores (PRO, Song et
    al., 2024). `order` as in `ranked_hinge`.
    """
    s = _in_order(scores, order)
    return reduce((s.flip(-1).logcumsumexp(-1).flip(-1) - s).sum(-1), mask, reduction)


def longest_common_order(first: list[int], second: list[int]) -> list[int]:
    """A longest common subsequence of two rankings [n] and [m], in order: what both agree on. A single answer is no evidence.

    Source: the agreement that CycleAlign (Hong et al., 2023) feeds back as a demonstration.
    """
    best: list[list[list[int]]] = [[[] for _ in range(len(second) + 1)] for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            best[i + 1][j + 1] = [*best[i][j], one] if one == other else max(best[i][j + 1], best[i + 1][j], key=len)
    return best[-1][-1]
