"""Formulas over outputs: logits [..., classes] of student and teacher, labels [...].

The class axis is the last; every other axis counts items. Teachers are detached. Items whose label is -100 are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import UNLABELLED, Reduction, labelled, objective, reduce

_NONE = -1e30  # the logarithm of no mass, as a finite number
_FAR = 80.0  # a ratio of e^80 is as good as infinite beside 1, and does not overflow


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r}: expected a positive number")
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def _known(labels: Tensor) -> Tensor:
    """Labels with 0 in the place of -100, so that they can be gathered by; the mask drops those items."""
    return labels.clamp(min=0) if UNLABELLED < 0 else labels


def _kl(target: Tensor, other: Tensor) -> Tensor:
    """KL(target || other) of log-probabilities over the last axis; 0 log 0 = 0, in the gradient too."""
    return (target.exp() * (target - other).masked_fill(target == -torch.inf, 0)).sum(-1)


def _mixed(one: Tensor, other: Tensor, weight: float) -> Tensor:
    """log(m / one), m = weight one + (1 - weight) other, of log-probabilities, 0 < weight < 1.

    Exactly 0 where the two are equal, and finite where either has no mass: log weight, or 80 in the place of infinity.
    """
    gap = (other - one).nan_to_num(nan=0.0, posinf=_FAR, neginf=-_FAR).clamp(-_FAR, _FAR)
    return torch.log1p((1 - weight) * torch.expm1(gap))


def _jensen_shannon(target: Tensor, other: Tensor, beta: float) -> Tensor:
    """beta KL(target || m) + (1 - beta) KL(other || m), m = beta target + (1 - beta) other, of log-probabilities.

    At the ends, where that is 0, KL(target || other) for beta 0 and KL(other || target) for beta 1 (GKD's convention).
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta={beta!r}: expected a number from 0 to 1")
    if beta in (0, 1):
        return _kl(other, target) if beta else _kl(target, other)
    first = (target.exp() * _mixed(target, other, beta)).sum(-1)
    return -beta * first - (1 - beta) * (other.exp() * _mixed(other, target, 1 - beta)).sum(-1)


def _soft_cross_entropy(p: Tensor, log_q: Tensor) -> Tensor:
    """-sum p log q over the last axis; 0 log 0 = 0, in the gradient too."""
    return -(p * log_q.masked_fill(p == 0, 0)).sum(-1)


@objective(per="item", student="logits")
def cross_entropy(student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, mask: Tensor | None = None,
                  reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-log p_S[label] of logits [..., classes] and labels [...] (int64, -100: left out).

    `label_smoothing` spreads that much of the target evenly over all classes. Values [...]; mean over labelled items.
    """
    student = student.float() if student.dtype in (torch.float16, torch.bfloat16) else student
    values = F.cross_entropy(
        student.flatten(0, -2),
        labels.flatten(),
        ignore_index=UNLABELLED,
        label_smoothing=label_smoothing,
        reduction="none",
    ).view(labels.shape)
    if mask is None and reduction in ("none", "mean"):  # items without a label are 0 already
        return values if reduction == "none" else values.sum() / (labels != UNLABELLED).sum().clamp(min=1)
    return reduce(values, labelled(labels, mask), reduction)


@objective(per="item", student="logits", teacher="logits")
def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
                       reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum_c p_T log p_S at a temperature, without T^2. Logits [..., classes]; values [...].

    Equal to the forward KL plus the teacher's entropy: not zero at equality (TextBrewer's kd_ce, 2020; SimCLRv2, 2020).
    """
    p = _log_softmax(teacher.detach(), temperature).exp()
    return reduce(_soft_cross_entropy(p, _log_softmax(student, temperature)), mask, reduction)


@objective(per="item")
def argmax_cross_entropy(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                         reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-log of the student's probability of the teacher's best class (hard distillation, DeiT, Touvron et al., 2021).

    Logits [..., classes] of both. Values [...].
    """
    best = teacher.detach().argmax(-1, keepdim=True)
    return reduce(-_log_softmax(student).gather(-1, best)[..., 0], mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """T^2 KL(p_T || p_S) of logits [..., classes], both softened by the temperature T. Values [...]; zero at equality.

    Source: Hinton et al., 2015; T^2 keeps the size of the gradient as T grows.
    """
    values = _kl(_log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature))
    return reduce(values * temperature**2, mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
               reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """T^2 KL(p_S || p_T) of logits [..., classes]: punishes mass where the teacher has none. Values [...].

    Source: MiniLLM (Gu et al., 2024) for its use in distillation.
    """
    values = _kl(_log_softmax(student, temperature), _log_softmax(teacher.detach(), temperature))
    return reduce(values * temperature**2, mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def jensen_shannon(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0,
                   mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """beta KL(p_T || m) + (1 - beta) KL(p_S || m), m = beta p_T + (1 - beta) p_S, without T^2. Values [...].

    Symmetric at beta 0.5 and at most log 2 there. At the ends, where the formula itself is 0, it is the forward KL for
    beta 0 and the reverse KL for beta 1 (GKD, Agarwal et al., 2024). Logits [..., classes].
    """
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)
    return reduce(_jensen_shannon(t, s, beta), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def symmetric_kl(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                 reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Half of KL(p_T || p_S) + KL(p_S || p_T) at temperature 1. Logits [..., classes]; values [...].

    Source: SSLD (Cui et al., 2021), whose code calls it JS divergence.
    """
    t, s = _log_softmax(teacher.detach()), _log_softmax(student)
    return reduce(0.5 * (_kl(t, s) + _kl(s, t)), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Mean over the last axis of the squared difference of [..., width]. Values [...]; zero at equality.

    The mean over items is the mean over all elements (Ba and Caruana, 2014, match logits so).
    """
    return reduce((student - teacher.detach()).square().mean(-1), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def decoupled_kl(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 8.0,
                 temperature: float = 4.0, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """T^2 (alpha TCKD + beta NCKD) of logits [..., classes] and labels [...] (-100: left out). Values [...].

    TCKD is the KL of (p[label], 1 - p[label]), NCKD the KL of the softmax over the other classes (DKD, Zhao et al., 2022).
    """
    target = F.one_hot(_known(labels), student.shape[-1]).bool()
    t, s = _log_softmax(teacher.detach(), temperature), _log_softmax(student, temperature)

    def parts(log_p: Tensor) -> tuple[Tensor, Tensor]:
        rest = log_p.masked_fill(target, -torch.inf)
        hit, miss = log_p.masked_fill(~target, 0).sum(-1), rest.logsumexp(-1)
        return torch.stack([hit, miss], -1), (rest - miss[..., None]).masked_fill(target, 0)

    (t_pair, t_rest), (s_pair, s_rest) = parts(t), parts(s)
    others = (t_rest.exp() * (t_rest - s_rest)).masked_fill(target, 0).sum(-1)
    values = temperature**2 * (alpha * _kl(t_pair, s_pair) + beta * others)
    return reduce(values, labelled(labels, mask), reduction)


@objective(per="item", student="logits", teacher="logits")
def target_nontarget_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, *, gamma: float = 1.5,
                                   temperature: float = 1.0, mask: Tensor | None = None,
                                   reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-p_T[label] log p_S[label] - gamma T^2 sum_{c != label} q_T log q_S, q the softmax over the other classes / T.

    The first term is at temperature 1. Logits [..., classes], labels [...] (-100: left out), values [...]
    (NKD, Yang et al., 2023).
    """
    index = _known(labels)[..., None]
    target = F.one_hot(_known(labels), student.shape[-1]).bool()
    t, s = _log_softmax(teacher.detach()), _log_softmax(student)
    hit = -(t.gather(-1, index).exp() * s.gather(-1, index))[..., 0]

    def others(log_p: Tensor) -> Tensor:  # logits and log-probabilities differ by a constant, which the softmax drops
        return (log_p / temperature).masked_fill(target, -torch.inf).log_softmax(-1).masked_fill(target, 0)

    q_t, q_s = others(t), others(s)
    rest = -(q_t.exp().masked_fill(target, 0) * q_s).sum(-1)
    return reduce(hit + gamma * temperature**2 * rest, labelled(labels, mask), reduction)


@objective(per="item", student="logits", teacher="logits")
def pearson_rows(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None,
                 reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """T^2 (1 - Pearson correlation of a sample's probabilities) of logits [..., classes]. Values [...], 0 to 2 T^2.

    Source: DIST's inter-class relation (Huang et al., 2022).
    """
    s, t = _log_softmax(student, temperature).exp(), _log_softmax(teacher.detach(), temperature).exp()
    return reduce((1 - _pearson(s, t, -1)) * temperature**2, mask, reduction)


@objective(per="batch", student="logits", teacher="logits")
def pearson_columns(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 (1 - mean Pearson correlation of a class's probabilities across samples) of logits [batch, classes]; a scalar.

    Source: DIST's intra-class relation (Huang et al., 2022). Not additive over micro-batches; batches of 32 or more.
    """
    s, t = _log_softmax(student, temperature).exp(), _log_softmax(teacher.detach(), temperature).exp()
    s, t = s.flatten(0, -2), t.flatten(0, -2)
    return (1 - _pearson(s, t, 0).mean()) * temperature**2


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    norms = a.square().sum(dim).clamp(min=1e-24).sqrt() * b.square().sum(dim).clamp(min=1e-24).sqrt()
    return (a * b).sum(dim) / (norms + 1e-8)


@objective(per="item", student="logits", teacher="logits")
def plackett_luce(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0,
                  mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """sum_k a_k (logsumexp_{l >= k} z_S[pi_l] - z_S[pi_k]), pi = label first, then the teacher's order. Values [...].

    a_k = softmax(z_T / temperature)[pi_k]; logits [..., classes], labels [...] (-100: left out). Convex in z_S, blind to
    a shift of it; a = (1, 0, ...) is the cross-entropy, a = 1 is ListMLE (PLD, 2025).
    """
    teacher = teacher.detach()
    known = _known(labels)[..., None]
    order = teacher.scatter(-1, known, torch.inf).argsort(dim=-1, descending=True, stable=True)
    worth = _log_softmax(teacher, temperature).exp().gather(-1, order)
    ranked = _log_softmax(student).gather(-1, order)
    rest = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    return reduce((worth * (rest - ranked)).sum(-1), labelled(labels, mask), reduction)


@objective(per="item", student="logits", teacher="logits", unlabelled="keep")
def mixed_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, *, soft: float = 0.9, temperature: float = 1.0,
                        mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Cross-entropy with one target, (1 - soft) onehot + soft p_T. Logits [..., classes], labels [...], values [...].

    p_T is softened by the temperature, the student is not. Items without a label (-100) have the target p_T alone.
    """
    p = _log_softmax(teacher.detach(), temperature).exp()
    hard = F.one_hot(_known(labels), student.shape[-1]).to(p.dtype)
    target = torch.where((labels != UNLABELLED)[..., None], (1 - soft) * hard + soft * p, p)
    return reduce(_soft_cross_entropy(target, _log_softmax(student)), mask, reduction)


@objective(per="item", student="logits", teacher="logits", unlabelled="keep")
def adapted_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, *, eps: float = 1.0, temperature: float = 1.0,
                          mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-sum_c ((p_T + onehot)^eps - onehot)_c log p_S, both softened by the temperature, without T^2. Values [...].

    Logits [..., classes], labels [...]. At eps 1 it is the soft cross-entropy; above, the true class weighs more and small
    probabilities less. Items without a label (-100) have the target p_T^eps (OFA-KD, Hao et al., 2023).
    """
    if not eps > 0:
        raise ValueError(f"eps={eps!r}: expected a positive number")
    p = _log_softmax(teacher.detach(), temperature).exp()
    hard = F.one_hot(_known(labels), student.shape[-1]).to(p.dtype) * (labels != UNLABELLED)[..., None]
    return reduce(_soft_cross_entropy((p + hard) ** eps - hard, _log_softmax(student, temperature)), mask, reduction)


@objective(per="item", student="logits")
def squared_error(
    student: Tensor, labels: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """(value - label)^2 of values [batch] or [batch, targets] (their mean) and labels alike (nan: left out). Values [batch]."""
    known = ~labels.isnan()
    values = (student - labels.where(known, 0)).square()
    if values.ndim == 2:
        values, known = values.mean(-1), known.all(-1)
    return reduce(values, known if mask is None else known * mask, reduction)


def standardize(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """(z - mean) / (eps + standard deviation with n - 1) of each row of logits [..., classes].

    A transform for both models before a comparison (Sun et al., 2024): `forward_kl(temperature=2).through(standardize)`.
    """
    return (logits - logits.mean(-1, keepdim=True)) / (eps + logits.std(-1, keepdim=True))
