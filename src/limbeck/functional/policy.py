"""Policy gradients on sampled tokens: advantages, the clipped term, estimates of the KL to a teacher, MiniLLM's returns.

Log-probabilities are those of the sampled tokens, [..., tokens] (`label_log_probabilities` of student, of the student that
sampled, of the teacher); masks [..., tokens] say which tokens are the answer's. Everything but the student's own
log-probabilities is detached. The single-step regulariser of MiniLLM is `reverse_kl` at the sampled positions.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, nearest
from limbeck.functional.core import Reduction, reduce
from limbeck.functional.response import _NONE, _log_softmax

Estimate = Literal["k1", "k2", "k3"]


# rewards of answers
def group_advantages(rewards: Tensor, *, scale: bool = True, epsilon: float = 1e-4) -> Tensor:
    """(r - mean) / (std + epsilon) over the answers to one prompt, rewards [..., answers]; exactly 0 where all are equal.

    The standard deviation is the unbiased one (GRPO, Shao et al., 2024; KDRL, 2025). `scale=False` leaves out the division.
    A group whose answers all fail or all succeed teaches nothing here: a teacher's term must not be multiplied by it.
    """
    rewards = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    even = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)  # a mean of equal numbers may be rounded
    centred = (rewards - rewards.mean(-1, keepdim=True)).masked_fill(even, 0)
    if not scale or rewards.shape[-1] < 2:
        return centred
    return centred / (rewards.std(-1, keepdim=True) + epsilon)


def unsolved(rewards: Tensor, *, by: Literal["answer", "group"] = "answer") -> Tensor:
    """Which answers [..., answers] the teacher should correct: those without a positive reward, or those in groups without one.

    A mask for the teacher's term of KDRL's reward-guided forms, to be multiplied into the mask of tokens.
    """
    if by not in ("answer", "group"):
        raise ArgumentError(f"by={by!r}: expected 'answer' or 'group'.{nearest(by, ['answer', 'group'])}")
    failed = rewards <= 0
    return failed if by == "answer" else failed.all(-1, keepdim=True).expand_as(failed)


# the objective of a token
def clipped_policy(student: Tensor, old: Tensor, advantages: Tensor, *, clip: float = 0.2, clip_high: float | None = None,
                   weight: Tensor | None = None, mask: Tensor | None = None,
                   reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """max(-A r, -A min(max(r, 1 - clip), 1 + clip_high)), r = weight exp(student - old), of log-probabilities [..., tokens].

    `advantages` [..., tokens], or [..., 1] for a whole answer. `clip_high` is `clip` unless given; `weight` [..., tokens]
    are importance weights of the sampling (MiniLLM). Values [..., tokens]; the mean is over all tokens of the batch, so
    that long answers weigh more (PPO, Schulman et al., 2017).
    """
    ratio = torch.exp(student - old.detach())
    if weight is not None:
        ratio = ratio * weight.detach()
    gain, high = -advantages.detach(), clip if clip_high is None else clip_high
    values = torch.maximum(gain * ratio, gain * ratio.clamp(1 - clip, 1 + high))
    return reduce(values, mask, reduction)


def kl_estimate(student: Tensor, teacher: Tensor, *, kind: Estimate = "k2", mask: Tensor | None = None,
                reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """An estimate of KL(student || teacher) from log-probabilities [..., tokens] of the student's own samples. Values alike.

    With d = teacher - student: k1 = -d, k2 = d^2 / 2, k3 = e^d - 1 - d. As *values* k1 and k3 have the reverse KL as their
    mean. As *losses*, on samples from the student as it is, only k2's expected gradient is that of the reverse KL; k3's is
    that of the forward KL, and k1's is zero (k1 belongs into the reward: `token_rewards`). KDRL, 2025; Schulman, 2020.
    """
    if kind not in get_args(Estimate):
        raise ArgumentError(f"kind={kind!r}: expected one of {get_args(Estimate)}.{nearest(kind, get_args(Estimate))}")
    d = teacher.detach() - student
    values = -d if kind == "k1" else 0.5 * d.square() if kind == "k2" else torch.expm1(d) - d
    return reduce(values, mask, reduction)


# MiniLLM
def token_rewards(student: Tensor, teacher: Tensor, *, clip: float | None = 100.0) -> Tensor:
    """log p_T - log p_S [..., tokens] of sampled tokens, clipped to +-clip, detached. Summed: minus `kl_estimate`'s k1."""
    rewards = (teacher - student).detach()
    return rewards if clip is None else rewards.clamp(-clip, clip)


def remaining_returns(rewards: Tensor, mask: Tensor, *, gamma: float = 0.95, average: bool = True) -> Tensor:
    """sum_{u >= t} gamma^(u - t) r_u of rewards [..., tokens] under a mask [..., tokens]; values [..., tokens].

    `average` divides by the number of kept tokens from t on (1 at least): without it, long answers gain from every token
    that is likelier to the teacher than to the student (MiniLLM, Gu et al., 2024).
    """
    kept = mask.to(rewards.dtype)
    rewards = rewards.detach().where(kept != 0, 0) * kept
    found, running = torch.empty_like(rewards), torch.zeros_like(rewards[..., 0])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        running = rewards[..., t] + gamma * running
        found[..., t] = running
    return found / kept.flip(-1).cumsum(-1).flip(-1).clamp(min=1) if average else found


def whiten(values: Tensor, mask: Tensor | None = None, *, epsilon: float = 1e-8) -> Tensor:
    """(v - mean) / sqrt(variance + epsilon) over all entries of values [..., tokens], or over those of a mask.

    The variance is unbiased. MiniLLM's code counts padded entries (no mask); with a mask they are 0. Equal values have
    nothing to be told apart by: they are returned as they are, and not as zeros, which would stop the learning.
    """
    kept = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool().expand_as(values)
    chosen = values[kept]
    if not len(chosen) or chosen.min() == chosen.max():
        return values.where(kept, 0)
    return ((values - chosen.mean()) * torch.rsqrt(chosen.var() + epsilon)).where(kept, 0)


def mixed_sampling(student: Tensor, teacher: Tensor, *, alpha: float = 0.2) -> Tensor:
    """Log-probabilities [..., vocabulary] of alpha p_T + (1 - alpha) p_S from logits alike: what MiniLLM samples from.

    A share of the teacher keeps samples from running into text that no teacher would score high but by accident.
    """
    with torch.no_grad():
        return _log_mixed(_log_softmax(student), _log_softmax(teacher), alpha)


def importance_weights(student: Tensor, teacher: Tensor, *, alpha: float = 0.2) -> Tensor:
    """p_S / (alpha p_T + (1 - alpha) p_S) of log-probabilities [..., tokens] of tokens that were drawn from the mixture.

    From 0 to 1 / (1 - alpha), 1 where the two agree; their mean over the mixture's samples is 1.
    """
    with torch.no_grad():
        return torch.exp(student - _log_mixed(student, teacher, alpha))


def _log_mixed(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    if not 0 <= alpha < 1:
        raise ArgumentError(f"alpha={alpha!r}: expected the teacher's share, from 0 to below 1.")
    own = student.clamp(min=_NONE) + math.log1p(-alpha)
    return torch.logaddexp(own, teacher.clamp(min=_NONE) + math.log(alpha)) if alpha else student
