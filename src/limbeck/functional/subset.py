"""Divergences over a part of the vocabulary, and correlations between neighbouring tokens (multi-granularity revision).

The system (Liu et al., 2024) has no public code: which classes are kept, and the forms below, are our reading of its paper.
Logits [..., vocabulary], teachers detached. A token's kept classes are those whose teacher probability lies between two
thresholds, and always its label and the teacher's first choice. Thresholds are probabilities [...]: `probability_quantile`
makes them from quantile levels, through which a small network that proposes the levels can be trained by
`soft_subset_kl`, while the student learns by `subset_kl`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import UNLABELLED, Reduction, objective, reduce
from limbeck.functional.response import _kl, _known, _log_softmax


def probability_quantile(probabilities: Tensor, level: Tensor) -> Tensor:
    """The quantile [...] at a level [...] (0 to 1) of each row of probabilities [..., vocabulary], interpolated linearly.

    Differentiable in the level: its slope is the step between the two neighbouring probabilities times (vocabulary - 1).
    """
    ordered, last = probabilities.sort(-1).values, probabilities.shape[-1] - 1
    place = level.clamp(0, 1) * last
    low = place.detach().floor().clamp(max=max(last - 1, 0)).long()
    one = ordered.gather(-1, low[..., None])[..., 0]
    two = ordered.gather(-1, (low + 1).clamp(max=last)[..., None])[..., 0]
    return one + (place - low) * (two - one)


def _always(teacher: Tensor, labels: Tensor | None) -> Tensor:
    """The classes [..., vocabulary] that are kept in any case: the teacher's first choice, and the label if there is one."""
    always = torch.zeros_like(teacher, dtype=torch.bool).scatter(-1, teacher.argmax(-1, keepdim=True), True)
    if labels is None:
        return always
    hit = F.one_hot(_known(labels), teacher.shape[-1]).bool() & (labels != UNLABELLED)[..., None]
    return always | hit


def kept_classes(teacher: Tensor, labels: Tensor | None = None, *, lower: float | Tensor = 0.0,
                 upper: float | Tensor = 1.0) -> Tensor:  # fmt: skip
    """Which classes [..., vocabulary] have a teacher probability from `lower` to `upper` (numbers, or [...]), by its logits.

    The teacher's first choice and the label (where it is not -100) are always kept.
    """
    p = _log_softmax(teacher.detach()).exp()
    low, high = (torch.as_tensor(each, dtype=p.dtype, device=p.device) for each in (lower, upper))
    within = (p >= low.detach()[..., None]) & (p <= high.detach()[..., None])
    return within | _always(teacher, labels)


def subset_kl(student: Tensor, teacher: Tensor, keep: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
              reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(p_T || p_S) with both renormalised over the classes of keep [..., vocabulary]. Logits alike, values [...].

    Classes outside get no gradient. Rows that keep nothing (or nothing that the teacher knows) have the value 0.
    """
    dropped = ~keep
    empty = (dropped | (teacher == -torch.inf)).all(-1, keepdim=True)

    def within(logits: Tensor) -> Tensor:
        return _log_softmax(logits.masked_fill(dropped, -torch.inf).masked_fill(empty, 0), temperature)

    return reduce(_kl(within(teacher.detach()), within(student)), mask, reduction)


@objective(per="item", student="logits", teacher="logits", unlabelled="keep")
def clipped_forward_kl(student: Tensor, teacher: Tensor, labels: Tensor, *, lower: float = 1e-4, upper: float = 1.0,
                       temperature: float = 1.0, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`subset_kl` over classes with a teacher probability from `lower` to `upper`, its first choice, and the label.

    Logits [..., vocabulary], labels [...] (-100: no label to keep), values [...]. DAC-KL with fixed thresholds
    (multi-granularity semantic revision, Liu et al., 2024; our reading).
    """
    keep = kept_classes(teacher, labels, lower=lower, upper=upper)
    return subset_kl(student, teacher, keep, temperature=temperature, mask=mask, reduction=reduction)


def soft_subset_kl(student: Tensor, teacher: Tensor, labels: Tensor | None, lower: Tensor, upper: Tensor, *,
                   width: float = 0.01, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`subset_kl` with a soft set: both distributions times sigmoid((p - lower) / width) sigmoid((upper - p) / width).

    `lower`, `upper` [...] are probabilities and get gradients, as the student does: it is by this that thresholds are
    learned. The label (-100 or None: none) and the teacher's first choice count in full. Tends to the hard set as `width`
    tends to 0. Logits [..., vocabulary], values [...].
    """
    if not width > 0:
        raise ArgumentError(f"width={width!r}: expected a positive number.")
    t, s = _log_softmax(teacher.detach()), _log_softmax(student)
    p = t.exp()
    membership = F.logsigmoid((p - lower[..., None]) / width) + F.logsigmoid((upper[..., None] - p) / width)
    membership = membership.masked_fill(_always(teacher, labels), 0)
    values = _kl((t + membership).log_softmax(-1), (s + membership).log_softmax(-1))
    return reduce(values, mask, reduction)


def span_correlation(student: Tensor, teacher: Tensor, spans: Tensor, *, top_k: int | None = None) -> Tensor:
    """Mean over neighbours i, i + 1 within a span of |p_i p_(i+1) - q_i q_(i+1)|, products class by class, L2 norm.

    Logits [batch, tokens, vocabulary]; spans [n, 3] of (row, first token, end exclusive); a scalar, 0 without neighbours.
    `top_k` compares only the classes of the teacher's largest products, as all others are nearly 0. Spans are those of a
    chunker; fixed n-grams are an honest substitute. Source: the span term of multi-granularity revision (our reading).
    """
    places = [(row, token) for row, first, end in spans.tolist() for token in range(first, end - 1)]
    if not places:
        return student.sum() * 0
    rows, tokens = torch.tensor(places, device=student.device).T

    def products(logits: Tensor) -> Tensor:
        return (_log_softmax(logits[rows, tokens]) + _log_softmax(logits[rows, tokens + 1])).exp()

    p, q = products(teacher.detach()), products(student)
    if top_k is not None:
        ids = p.topk(min(top_k, p.shape[-1]), dim=-1).indices
        p, q = p.gather(-1, ids), q.gather(-1, ids)
    return torch.linalg.vector_norm(p - q, dim=-1).mean()
