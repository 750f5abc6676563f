"""Divergences from a teacher that is known by its k most likely classes: ids, log-probabilities, mass of the rest.

Each measure has two faces. `topk_forward_kl(student, teacher, k=...)` takes logits of both and keeps the teacher's k
largest by itself: a stored teacher's, with an evenly spread rest, gives the same as the live one's. `sparse_forward_kl`
takes what a store keeps: ids [..., k], log-probabilities [..., k] at temperature 1, and the log mass of the rest [...].

`missing` says what becomes of the classes that were not kept:

- "rest": all of them are one more class, for both sides. Nothing is invented, and nothing within it is compared.
- "zero": the teacher has no mass there (its k are renormalised), the student's mass is wrong wherever it lies. The
  target is sharper than the teacher, and so becomes the student.
- "conditional": both are renormalised over the k classes; what the student does outside is not seen.

A temperature T acts on the stored values, p^(1/T) renormalised, with rest^(1/T) for the rest: exact within the k classes
and only approximate for the mass outside. No T^2. Teachers are detached. Sources: DistillKit (Arcee, 2024); DCKD of ADPA
(Gao et al., 2025) is "rest", the linear form of FIRST (Shum et al., 2024) "conditional" with floor 1e-6.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import ArgumentError, nearest
from limbeck.functional.core import Reduction, objective, reduce
from limbeck.functional.response import _NONE, _jensen_shannon, _kl, _log_softmax

Missing = Literal["rest", "zero", "conditional"]
_STORED_NONE = -6e4  # a store writes -65504 where there is no mass


# which classes are kept
def _log_sum(values: Tensor) -> Tensor:
    """logsumexp over the last axis, with a gradient (zero) where all are -inf."""
    none = (values == -torch.inf).all(-1)
    return values.masked_fill(none[..., None], 0).logsumexp(-1).masked_fill(none, -torch.inf)


def largest(logits: Any, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [..., k] and log-probabilities [..., k] of the k largest logits [..., classes], and the log mass [...] of the
    rest (-inf where k is all of them). A k beyond the number of classes means all. In float32 at least, detached.
    What a store kept of a teacher (`limbeck.signals.store.TopK`) has them already."""
    if k < 1:
        raise ArgumentError(f"k={k!r}: expected 1 or more classes to keep.")
    if not isinstance(logits, Tensor):
        return logits.largest(k)
    log_p = _log_softmax(logits.detach())
    kept, ids = log_p.topk(min(k, log_p.shape[-1]), dim=-1)
    return ids, kept, _log_sum(log_p.scatter(-1, ids, -torch.inf))


def least_k(logits: Tensor, mass: float = 0.95) -> Tensor:
    """The smallest k [...] whose k largest classes of logits [..., classes] hold a probability of `mass` or more.

    For choosing the k of a store: the 95th percentile of these over some text keeps `mass` at 95 of 100 tokens.
    """
    if not 0 < mass <= 1:
        raise ArgumentError(f"mass={mass!r}: expected a probability above 0, at most 1.")
    p = _log_softmax(logits.detach()).exp().sort(-1, descending=True).values
    return ((p.cumsum(-1) - p < mass) & (p > 0)).sum(-1)


def smooth_largest(log_probabilities: Tensor, delta: float = 0.1) -> Tensor:
    """Log-probabilities [..., k] with `delta` of probability moved from the most likely class, evenly to the others.

    At most what that class has is moved; the sum stays (FIRST's option for an overconfident teacher).
    """
    if not 0 <= delta <= 1:
        raise ArgumentError(f"delta={delta!r}: expected a probability from 0 to 1.")
    p = log_probabilities.exp()
    if p.shape[-1] < 2:
        return log_probabilities
    top, place = p.max(-1, keepdim=True)
    moved = top.clamp(max=delta)
    return (p + moved / (p.shape[-1] - 1)).scatter(-1, place, top - moved).log()


# the k classes and the rest, of both sides
def _compared(student: Tensor, ids: Tensor, log_p: Tensor, log_tail: Tensor | None, temperature: float,
              missing: str, floor: float = 0.0) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probabilities of teacher and student over [..., k + 1]: the kept classes, then all others."""
    if missing not in get_args(Missing):
        raise ArgumentError(
            f"missing={missing!r}: expected one of {get_args(Missing)}.{nearest(missing, get_args(Missing))}"
        )
    if floor and missing != "conditional":
        raise ArgumentError(f"floor={floor!r} belongs to missing='conditional', where both sides are renormalised.")
    ids, q = ids.long(), _log_softmax(student, temperature)
    t = log_p.detach().to(q.dtype)
    t = t.masked_fill(t < _STORED_NONE, -torch.inf)
    kept = q.gather(-1, ids)
    if missing == "conditional":
        none = torch.full_like(t[..., :1], -torch.inf)
        return torch.cat([_conditional(t / temperature, floor), none], -1), torch.cat(
            [_conditional(kept, floor), none], -1
        )
    if missing == "zero":
        tail = torch.full_like(t[..., 0], -torch.inf)
    else:
        tail = torch.log1p(-t.exp().sum(-1).clamp(max=1)) if log_tail is None else log_tail.detach().to(q.dtype)
    rest = _log_sum(q.scatter(-1, ids, -torch.inf))
    return stored_target(t, tail, temperature), torch.cat([kept, rest[..., None]], -1)


def stored_target(log_p: Tensor, log_tail: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [..., k + 1] of k classes [..., k] and the rest [...], softened; no mass where a store says so."""
    target = torch.cat([log_p, log_tail[..., None]], -1)
    return (target.masked_fill(target < _STORED_NONE, -torch.inf) / temperature).log_softmax(-1)


def _conditional(log_p: Tensor, floor: float) -> Tensor:
    """Renormalised over the last axis, `floor` having been added to each probability."""
    if not floor:
        return (log_p - _log_sum(log_p)[..., None]).masked_fill(log_p == -torch.inf, -torch.inf)
    log_p = log_p.clamp(min=_NONE)
    return torch.logaddexp(log_p, torch.full_like(log_p, math.log(floor))).log_softmax(-1)


# divergences
def sparse_forward_kl(student: Tensor, ids: Tensor, log_probabilities: Tensor, log_tail: Tensor | None = None, *,
                      temperature: float = 1.0, missing: Missing = "rest", floor: float = 0.0,
                      mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(p_T || p_S) of student logits [..., classes] and a stored teacher (see above). Values [...].

    Without `log_tail` the rest has what the k probabilities leave of 1. `floor` is added to each of the k probabilities of
    both sides before they are renormalised ("conditional" only; FIRST adds 1e-6).
    """
    t, s = _compared(student, ids, log_probabilities, log_tail, temperature, missing, floor)
    return reduce(_kl(t, s), mask, reduction)


def sparse_jensen_shannon(student: Tensor, ids: Tensor, log_probabilities: Tensor, log_tail: Tensor | None = None, *,
                          beta: float = 0.5, temperature: float = 1.0, missing: Missing = "rest",
                          mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """beta KL(p_T || m) + (1 - beta) KL(p_S || m), m = beta p_T + (1 - beta) p_S, with a stored teacher. Values [...].

    Student logits [..., classes]. The forward KL at beta 0 and the reverse at 1, as in `jensen_shannon`.
    """
    t, s = _compared(student, ids, log_probabilities, log_tail, temperature, missing)
    return reduce(_jensen_shannon(t, s, beta), mask, reduction)


def sparse_total_variation(student: Tensor, ids: Tensor, log_probabilities: Tensor, log_tail: Tensor | None = None, *,
                           temperature: float = 1.0, missing: Missing = "rest", mask: Tensor | None = None,
                           reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Half the sum of |p_T - p_S| over the k classes and the rest. Student logits [..., classes]; values [...], 0 to 1."""
    t, s = _compared(student, ids, log_probabilities, log_tail, temperature, missing)
    return reduce(0.5 * (t.exp() - s.exp()).abs().sum(-1), mask, reduction)


# order within the k classes
def _mean_over_pairs(values: Tensor, pairs: Tensor) -> Tensor:
    return (values * pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)


def _pairs(scores: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """scores_i - scores_j [..., k, k] where the teacher has p_i > p_j > 0 (0 elsewhere), and where that is."""
    log_p = log_p.detach().float()
    pairs = (log_p[..., :, None] > log_p[..., None, :]) & (log_p[..., None, :] > _STORED_NONE)
    return (scores[..., :, None] - scores[..., None, :]).masked_fill(~pairs, 0), pairs


def sparse_hinge(student: Tensor, ids: Tensor, log_probabilities: Tensor, *, margin: float = 0.1,
                 mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """relu(margin - (q_i - q_j)) over pairs of kept classes with p_i > p_j, q = softmax of student logits [..., classes].

    Values [...] are means over a position's pairs, 0 without any; DistillKit takes the mean over all pairs of a batch,
    which is the same where no probabilities of a teacher are equal. No temperature.
    """
    gap, pairs = _pairs(_log_softmax(student).gather(-1, ids.long()).exp(), log_probabilities)
    return reduce(_mean_over_pairs((margin - gap).clamp(min=0), pairs), mask, reduction)


def sparse_ranking(student: Tensor, ids: Tensor, log_probabilities: Tensor, *, mask: Tensor | None = None,
                   reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """softplus(-(z_i - z_j)) over pairs of kept classes with p_i > p_j, z the student's logits [..., classes].

    Values [...] are means over a position's pairs, as in `sparse_hinge` (RankNet's loss). No temperature.
    """
    logits = student.float() if student.dtype in (torch.float16, torch.bfloat16) else student
    gap, pairs = _pairs(logits.gather(-1, ids.long()), log_probabilities)
    return reduce(_mean_over_pairs(F.softplus(-gap), pairs), mask, reduction)


# the same from whole logits
@objective(per="item", student="logits", teacher="logits", sparse=True)
def topk_forward_kl(student: Tensor, teacher: Tensor, *, k: int = 50, temperature: float = 1.0, missing: Missing = "rest",
                    floor: float = 0.0, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(p_T || p_S) over the teacher's k most likely classes and, by `missing`, the rest. Logits [..., classes]; values [...].

    At k of all classes the forward KL itself. See `limbeck.functional.topk` for the options and sources.
    """
    kept = largest(teacher, k)
    return sparse_forward_kl(student, *kept, temperature=temperature, missing=missing, floor=floor, mask=mask,
                             reduction=reduction)  # fmt: skip


@objective(per="item", student="logits", teacher="logits", sparse=True)
def topk_jensen_shannon(student: Tensor, teacher: Tensor, *, k: int = 50, beta: float = 0.5, temperature: float = 1.0,
                        missing: Missing = "rest", mask: Tensor | None = None,
                        reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`jensen_shannon` over the teacher's k likeliest classes and, by `missing`, the rest. Values [...].

    Logits [..., classes].
    """
    kept = largest(teacher, k)
    return sparse_jensen_shannon(student, *kept, beta=beta, temperature=temperature, missing=missing, mask=mask,
                                 reduction=reduction)  # fmt: skip


@objective(per="item", student="logits", teacher="logits", sparse=True)
def topk_total_variation(student: Tensor, teacher: Tensor, *, k: int = 50, temperature: float = 1.0,
                         missing: Missing = "rest", mask: Tensor | None = None,
                         reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`total_variation` over the teacher's k likeliest classes and, by `missing`, the rest. Values [...].

    Logits [..., classes].
    """
    kept = largest(teacher, k)
    return sparse_total_variation(student, *kept, temperature=temperature, missing=missing, mask=mask,
                                  reduction=reduction)  # fmt: skip


@objective(per="item", student="logits", teacher="logits", sparse=True)
def topk_hinge(student: Tensor, teacher: Tensor, *, k: int = 10, margin: float = 0.1, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`sparse_hinge` over pairs of the teacher's k most likely classes. Logits [..., classes]; values [...]."""
    ids, log_p, _ = largest(teacher, k)
    return sparse_hinge(student, ids, log_p, margin=margin, mask=mask, reduction=reduction)


@objective(per="item", student="logits", teacher="logits", sparse=True)
def topk_ranking(student: Tensor, teacher: Tensor, *, k: int = 10, mask: Tensor | None = None,
                 reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`sparse_ranking` over pairs of the teacher's k most likely classes. Logits [..., classes]; values [...]."""
    ids, log_p, _ = largest(teacher, k)
    return sparse_ranking(student, ids, log_p, mask=mask, reduction=reduction)
