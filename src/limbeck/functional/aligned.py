"""Teachers that were aligned with preferences, token by token: AlignDistil's composed teacher, ADPA's advantages.

Logits [..., vocabulary] of the student, of a teacher after DPO, and of another: its reference before DPO, or (AlignDistil)
one that DPO taught the reverse. All but the student's are detached. Cut vocabularies to one width first. DCKD, the stage
before ADPA, is `topk_forward_kl` with the rest as a class, on chosen and rejected answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import Reduction, objective, reduce
from limbeck.functional.response import _kl, _log_softmax


# AlignDistil
def token_strength(aligned: Tensor, other: Tensor, *, beta2: float = 15.0, floor: float = 1e-3) -> Tensor:
    """beta2 sum_v |p_v - p'_v| + floor [...] of two models' logits [..., vocabulary], detached: from floor to 2 beta2 + floor.

    How much more than DPO's own a token's contrast shall count: most where alignment has changed the prediction
    (AlignDistil, Zhang et al., 2025; beta2 15 on the student's own answers, 10 on given ones).
    """
    with torch.no_grad():
        gap = _log_softmax(aligned).exp() - _log_softmax(other).exp()
        return beta2 * gap.abs().sum(-1) + floor


def composed_logits(aligned: Tensor, other: Tensor, weight: float | Tensor, *, contrast: bool = True) -> Tensor:
    """z + w (z - z') of logits [..., vocabulary] and a weight [...] or number; without `contrast` z' + w (z - z'). Detached.

    Classes that either model excludes (-inf) are those of `aligned`.
    """
    z, other = (each.detach().float() if each.dtype in (torch.float16, torch.bfloat16) else each.detach()
                for each in (aligned, other))  # fmt: skip
    w = weight[..., None] if isinstance(weight, Tensor) else weight
    gap = (z - other).where(z.isfinite() & other.isfinite(), 0)
    return z + (w if contrast else w - 1) * gap


def composed_reverse_kl(student: Tensor, aligned: Tensor, other: Tensor, *, beta: float = 0.1, beta2: float = 15.0,
                        contrast: bool = True, adaptive: bool = True, temperature: float = 1.0,
                        mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """(beta / w) KL(p_S || softmax(z*)), z* = `composed_logits` with weight w, of logits [..., vocabulary]. Values [...].

    `adaptive`: w = `token_strength` of each token; else w = beta / beta2 everywhere, and the factor is beta2. `contrast`:
    `other` is the model that learned the preferences reversed, and z* = z + w (z - z'); else the reference, and
    z* = w z + (1 - w) z'. With neither it is the token-level form of RLHF with DPO's reward (theorem 1); with both,
    AlignDistil (Zhang et al., 2025), which sums over an answer's tokens, divides by their number and takes the mean over
    answers (`per_sequence`). The mean here is over tokens.
    """
    if not beta > 0 or not beta2 > 0:
        raise ArgumentError(f"beta={beta!r}, beta2={beta2!r}: expected positive numbers.")
    w = token_strength(aligned, other, beta2=beta2) if adaptive else beta / beta2
    target = composed_logits(aligned, other, w, contrast=contrast)
    values = _kl(_log_softmax(student, temperature), _log_softmax(target, temperature))
    return reduce(beta / w * values, mask, reduction)


# ADPA
def advantages(aligned: Tensor, reference: Tensor, *, top_k: int | None = None, clip: float | None = None) -> Tensor:
    """log p_aligned - log p_reference [..., vocabulary] of two teachers' logits, detached: what alignment has made likelier.

    `top_k` keeps those of the aligned teacher's k likeliest classes (0 elsewhere), `clip` limits them to +-clip. 0 where
    neither has any mass. Source: ADPA (Gao et al., 2025), whose code passes them through a clamp for probabilities, in
    which all negative ones are lost.
    """
    t, r = _log_softmax(aligned.detach()), _log_softmax(reference.detach())
    found = (t - r).masked_fill((t == -torch.inf) & (r == -torch.inf), 0)
    if clip is not None:
        found = found.clamp(-clip, clip)
    if top_k is not None:
        ids = t.topk(min(top_k, t.shape[-1]), dim=-1).indices
        found = torch.zeros_like(found).scatter(-1, ids, found.gather(-1, ids))
    return found


@objective(per="item", student="logits", teacher="logits")
def expected_advantage(student: Tensor, teacher: Tensor, *, clip: float | None = None, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum_v p_S(v) A(v) of student logits [..., vocabulary]; A is what `advantages` gives, in the teacher's place.

    Values [...]. `clip` limits A to +-clip.
    Linear in p_S, and so least at a single token: it needs a likelihood term beside it, or few steps. Over the student's
    own answers it is ADPA's objective (Gao et al., 2025).
    """
    gains = teacher.detach() if clip is None else teacher.detach().clamp(-clip, clip)
    return reduce(-(_log_softmax(student).exp() * gains).sum(-1), mask, reduction)
