"""How tokens look at each other: scores and relations [batch, heads, tokens, tokens], compared where both tokens count.

`tokens` [batch, tokens] is 1 for a token and 0 for padding, None where all count. Values are one per sample, [batch]: each the
mean over its own tokens, so that they are additive over samples and do not depend on how far a batch is padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import Reduction, reduce

LOWEST = -1e9


def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Q K^T / sqrt(width / heads) before the softmax, [batch, heads, tokens, tokens], of [batch, tokens, width] both.

    `key` = `query` gives the relation of a signal with itself; `heads` may be any number that divides the width (the relation
    heads of MiniLMv2). Raises ValueError where it does not.
    """
    width = query.shape[-1]
    if heads < 1 or width % heads or key.shape[-1] != width:
        raise ValueError(f"{heads} heads do not divide widths of {width} and {key.shape[-1]} into equal parts")
    left, right = (x.unflatten(-1, (heads, width // heads)).transpose(1, 2) for x in (query, key))
    return left @ right.transpose(-1, -2) / (width // heads) ** 0.5


def token_mean(values: Tensor, tokens: Tensor | None) -> Tensor:
    """The mean over each sample's tokens, of values [batch, ..., tokens]. Values [batch, ...], 0 where there is no token."""
    if tokens is None:
        return values.mean(-1)
    mask = tokens.to(values.dtype).reshape(len(tokens), *[1] * (values.ndim - 2), -1)
    return (values.where(mask != 0, 0) * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def hidden_mse(student: Tensor, teacher: Tensor, *, tokens: Tensor | None = None, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean squared difference over a sample's tokens and the width, of hidden states [batch, tokens, width]. Values [batch]."""
    return reduce(token_mean((student - teacher.detach()).square().mean(-1), tokens), mask, reduction)


def nearest_layers_mse(student: Tensor, teacher: Tensor, *, nearest: int = 2) -> Tensor:
    """Sum over the student's layers of the `nearest` smallest squared distances of a token to the teacher's layers.

    Hidden states [student's layers, batch, tokens, width] and [teacher's layers, batch, tokens, width], which may have a
    gradient (of a map that they went through). A distance is the mean over the width; which layers are nearest is found for
    every token anew (Wu et al., 2023). Values [batch, tokens].
    """
    apart = torch.stack([(layer - teacher).square().mean(-1) for layer in student])
    return apart.topk(nearest, dim=1, largest=False).values.sum((0, 1))


def attention_mse(student: Tensor, teacher: Tensor, *, tokens: Tensor | None = None, lowest: float = -100.0,
                  mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Mean squared difference of scores before the softmax, over heads and pairs of a sample's tokens. Values [batch].

    Scores [batch, heads, tokens, tokens]; those at or below `lowest`, as a mask leaves them, count as 0, each model by its own
    (TinyBERT, Jiao et al., 2020). Its code takes the mean over padding too, which makes the term smaller the more is padded.
    """
    student, teacher = (x.where(x > lowest, 0) for x in (student, teacher.detach()))
    values = (student - teacher).square().mean(1)
    return reduce(token_mean(token_mean(values, tokens), tokens), mask, reduction)


def attention_kl(student: Tensor, teacher: Tensor, *, tokens: Tensor | None = None, mask: Tensor | None = None,
                 reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL(teacher || student) of the softmax over a sample's tokens, the mean over heads and tokens that look. Values [batch].

    Scores [batch, heads, tokens, tokens] before the softmax, of attention or of relations (MiniLM, Wang et al., 2020). The
    papers' mean is over all tokens of a batch, in which a long text counts more.
    """
    if tokens is not None:
        away = (tokens == 0)[:, None, None, :]
        student, teacher = student.masked_fill(away, LOWEST), teacher.masked_fill(away, LOWEST)
    log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher.detach(), -1)
    return reduce(token_mean((log_p.exp() * (log_p - log_q)).sum(-1).mean(1), tokens), mask, reduction)
