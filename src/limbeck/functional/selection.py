"""Which tokens count, and how much: entropies, and the terms that stand on them (token-selective dual distillation).

Entropies [..., tokens] are in nats. Shares and quantiles are taken within each sequence and over its kept tokens only:
a batch's longest answer or its padding decides nothing. Source: TSD-KD (2026), whose code takes a quantile where the paper
means the top share, lets padding in, and uses a place in the flattened batch as a place in each sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import Reduction, objective, reduce
from limbeck.functional.response import _NONE, _jensen_shannon, _log_softmax


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)


@objective(per="item", student="logits")
def entropy(student: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
            reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum p log p of logits [..., classes]; values [...], 0 to log classes. As a term it makes the student surer.

    Its mean over the tokens of `highest_share` is the third term of TSD-KD (2026).
    """
    return reduce(_entropy(_log_softmax(student, temperature)), mask, reduction)


def entropy_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """sigmoid(H(p_S) - H(p_T)) [...] of logits [..., classes], detached: near 1 where the student alone is unsure."""
    with torch.no_grad():
        return torch.sigmoid(_entropy(_log_softmax(student)) - _entropy(_log_softmax(teacher)))


@objective(per="item", student="logits", teacher="logits")
def gap_weighted_jensen_shannon(student: Tensor, teacher: Tensor, *, beta: float = 0.9, temperature: float = 1.0,
                                mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`jensen_shannon` times `entropy_gap`: most where the student is less sure than the teacher. Logits [..., classes].

    Values [...]; the mean is over all kept tokens, not divided by the weights (the direct term of TSD-KD, 2026).
    """
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)
    return reduce(entropy_gap(student, teacher) * _jensen_shannon(t, s, beta), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def topk_plackett_luce(student: Tensor, teacher: Tensor, *, k: int = 10, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum_i (s_(i) - logsumexp_{j >= i} s_(j)) over the student's k likeliest classes in the teacher's order, best first.

    The student proposes, the teacher ranks: the indirect term of TSD-KD (2026), whose code sums j <= i, which rewards the
    reverse of the teacher's order. Logits [..., classes]; values [...]; classes without any student mass are left out.
    """
    if k < 1:
        raise ArgumentError(f"k={k!r}: expected 1 or more classes.")
    s, ids = _log_softmax(student).topk(min(k, student.shape[-1]), dim=-1)
    worth = teacher.detach().gather(-1, ids).masked_fill(s == -torch.inf, -torch.inf)
    order = worth.argsort(dim=-1, descending=True, stable=True)
    ranked = s.gather(-1, order)
    finite = ranked.clamp(min=_NONE)
    rest = finite.flip(-1).logcumsumexp(-1).flip(-1)
    return reduce((rest - finite).masked_fill(ranked == -torch.inf, 0).sum(-1), mask, reduction)


# which tokens
def _fraction(share: float) -> float:
    if not 0 < share <= 1:
        raise ArgumentError(f"share={share!r}: expected a number above 0, at most 1.")
    return share


def opening(entropies: Tensor, mask: Tensor, *, share: float = 0.1) -> Tensor:
    """The first kept tokens [batch, tokens] of each sequence, up to the one at which its entropy so far reaches `share`.

    `entropies` and `mask` [batch, tokens]; a share of the sequence's whole entropy. At least one kept token, where there
    is any. A boolean mask: the early tokens, where an answer takes its way.
    """
    kept = mask.bool()
    values = entropies.detach().double().where(kept, 0)
    before = values.cumsum(-1) - values
    return kept & ((before < _fraction(share) * values.sum(-1, keepdim=True)) | _first(kept))


def _first(kept: Tensor) -> Tensor:
    """The first kept token of each row: where nothing has any entropy, there is still an opening."""
    return kept & (kept.cumsum(-1) == 1)


def highest_share(values: Tensor, mask: Tensor, *, share: float = 0.1) -> Tensor:
    """The kept tokens [batch, tokens] whose value reaches the quantile 1 - share of their sequence's kept tokens.

    `values` (entropies) and `mask` [batch, tokens]; the quantile is interpolated linearly. A boolean mask; at least one
    token, where any is kept, and all of them where their values are equal.
    """
    kept, values = mask.bool(), values.detach().double()
    bound = values.masked_fill(~kept, torch.nan).nanquantile(1 - _fraction(share), dim=-1, keepdim=True)
    return kept & (values >= bound)
