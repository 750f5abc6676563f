"""How well a student's likelihoods of texts match a teacher's, where nothing but texts can be compared.

Log-probabilities of events [...] (chunks of text, whole answers), natural logarithms, at most 0; the teacher's are
detached. Each event is one coin: it happens, or it does not. At a temperature T its log-probability is divided by T, so that
rare events, whose coins all look alike, are told apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.core import Reduction, objective, reduce

EPSILON = 1e-6


def log1mexp(values: Tensor) -> Tensor:
    """log(1 - e^x) of x < 0, [...] to [...], exact near 0 and far below it, in the gradient too."""
    near = values > -math.log(2)
    # each branch sees harmless numbers where the other one counts, or its gradient would be 0 * inf
    close = torch.log(-torch.expm1(values.where(near, -1.0)))
    return close.where(near, torch.log1p(-torch.exp(values.where(~near, -1.0))))


def _coins(student: Tensor, teacher: Tensor, temperature: float, epsilon: float) -> tuple[Tensor, Tensor]:
    if not temperature > 0 or not epsilon > 0:
        raise ArgumentError(f"temperature={temperature!r}, epsilon={epsilon!r}: expected positive numbers.")
    student, teacher = (v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for v in (student, teacher))
    return student / temperature - epsilon, teacher.detach() / temperature - epsilon


def binary_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 100.0, epsilon: float = EPSILON,
                         mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """-(e^a b + (1 - e^a) log(1 - e^b)), a = log p_T / T - eps, b = log p_S / T - eps, of log-probabilities [...].

    Values [...]; not zero at equality: `binary_kl` plus the entropy of the teacher's coin (ALM, Minixhofer et al., 2025).
    """
    b, a = _coins(student, teacher, temperature, epsilon)
    return reduce(-(a.exp() * b - torch.expm1(a) * log1mexp(b)), mask, reduction)


def binary_kl(student: Tensor, teacher: Tensor, *, temperature: float = 100.0, epsilon: float = EPSILON,
              mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL of the student's coin from the teacher's, of log-probabilities [...] divided by T. Values [...], 0 at equality.

    Its gradient is that of `binary_cross_entropy`, ALM's default, and falls as 1/T: T times the value tends to
    `rate_kl` as T grows.
    """
    b, a = _coins(student, teacher, temperature, epsilon)
    return reduce(_coin_kl(a, b), mask, reduction)


def binary_reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 100.0, epsilon: float = EPSILON,
                      mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """KL of the teacher's coin from the student's, of log-probabilities [...] divided by T. Values [...], 0 at equality."""
    b, a = _coins(student, teacher, temperature, epsilon)
    return reduce(_coin_kl(b, a), mask, reduction)


def _coin_kl(one: Tensor, other: Tensor) -> Tensor:
    """KL between coins of log-probabilities: differences first, so that little is lost where they are close."""
    return one.exp() * (one - other) - torch.expm1(one) * (log1mexp(one) - log1mexp(other))


def rate_kl(student: Tensor, teacher: Tensor, *, epsilon: float = EPSILON, mask: Tensor | None = None,
            reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """y - x + x log(x / y), x = -log p_T + eps, y = -log p_S + eps, of log-probabilities [...]: KL between Poisson rates.

    Values [...], 0 at equality: the limit of T `binary_kl` as the temperature T grows (ALM's "temperature limit").
    """
    b, a = _coins(student, teacher, 1.0, epsilon)
    return reduce(a - b + a * (torch.log(-b) - torch.log(-a)), mask, reduction)


def likelihood_gap(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None,
                   reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """|log p_T - log p_S| of log-probabilities [...], in nats. Values [...]."""
    b, a = _coins(student, teacher, 1.0, EPSILON)
    return reduce((a - b).abs(), mask, reduction)


@objective(per="item", student="logits", teacher="logits")
def sorted_l1(student: Tensor, teacher: Tensor, *, student_temperature: float = 1.0, teacher_temperature: float = 1.0,
              mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """sum_k |p_S(k) - p_T(k)|, p(k) the k-th largest probability, of logits [..., V_S] and [..., V_T]. Values [...], 0 to 2.

    The shorter vocabulary is filled with zeros. Blind to which words are likely: it compares how probability is spread
    (a Wasserstein distance where every move costs the same; ULD, Boizard et al., 2024).
    """
    if not student_temperature > 0 or not teacher_temperature > 0:
        given = f"student_temperature={student_temperature!r}, teacher_temperature={teacher_temperature!r}"
        raise ValueError(f"{given}: expected positive numbers")
    q, p = tempered(student, student_temperature), tempered(teacher.detach(), teacher_temperature)
    return reduce(sorted_gap(q, p), mask, reduction)


def sorted_gap(one: Tensor, other: Tensor) -> Tensor:
    """sum_k |a(k) - b(k)| [...] of numbers [..., n] and [..., m] of 0 or more, each in descending order, zeros behind."""
    a, b = (values.sort(-1, descending=True).values for values in (one, other))
    shared = min(a.shape[-1], b.shape[-1])
    rest = a[..., shared:].sum(-1) + b[..., shared:].sum(-1)  # one of the two is empty
    return (a[..., :shared] - b[..., :shared]).abs().sum(-1) + rest


def tempered(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probabilities [..., classes] of logits divided by a temperature, in float32 at least."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return (logits / temperature).softmax(-1)
