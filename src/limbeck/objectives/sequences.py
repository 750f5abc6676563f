"""Terms over whole answers and over pairs of them: DPO, REDI, means within an answer, policy gradients.

They are ordinary autograd on the log-probabilities of labelled tokens [batch, tokens], which lazy logits give without
[tokens, vocabulary] (`limbeck.signals.scores`). Each says over what it adds up: pairs or answers, which no micro-batch or
process tears apart, so that accumulation and several processes change nothing; or tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck import functional as f
from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.core import UNLABELLED
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import Formula
from limbeck.signals.scores import label_log_probabilities, token_values
from limbeck.signals.step import Ref, Step

if TYPE_CHECKING:
    from typing import Self


class Answers(Term):
    """What terms over answers share: the log-probabilities that student and other roles give to the labelled tokens."""

    def labels(self, step: Step) -> Tensor:
        """[batch, tokens], -100 where nothing is to be predicted."""
        labels = step.batch.labels
        if labels is None or labels.ndim != 2:
            raise SignalError(f"{self.name!r} needs answers, tokens to predict [batch, tokens]; this batch has none.")
        return labels

    def log_probabilities(self, step: Step, ref: Ref) -> Tensor:
        """log p[label] [batch, tokens], 0 where there is no label. Found once for all terms of a step."""
        signal, key = step.signal(ref), f"log p of {ref} {torch.is_grad_enabled()}"
        known = step.drawn.get(key)
        if known is None or known[0] is not signal:  # "self" is another signal for every learner
            known = step.drawn[key] = signal, label_log_probabilities(signal, self.labels(step))
        return known[1]


class Pairs(Answers):
    """Terms over preference pairs, whose chosen and rejected answers stand one after the other (see `PairPart`).

    Additive over pairs. Both rows of a pair have the pair's value, so that the mean over rows is the mean over pairs.
    """

    paired = True

    def __init__(self, name: str, reference: str | None = None):
        super().__init__(name)
        self.reference = None if reference is None else Ref(reference, "logits")

    def against(self, role: str) -> Self:
        """Take the reference from another role."""
        if self.reference is None:
            raise ArgumentError(f"{self.name!r} has no reference to take from {role!r}.")
        self.reference = Ref(role, "logits")
        return self

    def needs(self) -> list[Ref]:
        return [Ref("self", "logits")] + ([] if self.reference is None else [self.reference])

    def values(self, step: Step) -> Tensor:
        chosen = step.batch.group("chosen")
        if len(chosen) % 2 or not bool(chosen[::2].all()) or bool(chosen[1::2].any()):
            raise SignalError(f"{self.name!r} needs pairs: every chosen answer with its rejected one in the next row.")
        lengths = (self.labels(step) != UNLABELLED).sum(-1)
        own = self.log_probabilities(step, Ref("self", "logits")).sum(-1)
        theirs = None
        if self.reference is not None:
            with torch.no_grad():
                theirs = self.log_probabilities(step, self.reference).sum(-1)
        return self.pair(own, theirs, lengths).repeat_interleave(2)

    def pair(self, own: Tensor, theirs: Tensor | None, lengths: Tensor) -> Tensor:
        """Values [pairs] of log-probabilities of answers and their lengths [2 pairs], chosen first."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a pair is worth")


class Dpo(Pairs):
    """See `dpo`."""

    def __init__(self, beta: float, label_smoothing: float, reverse: bool):
        super().__init__("reverse_dpo" if reverse else "dpo", "reference")
        if not beta > 0:
            raise ArgumentError(f"beta={beta!r}: expected a positive number.")
        self.beta, self.label_smoothing, self.reverse = beta, label_smoothing, reverse

    def pair(self, own: Tensor, theirs: Tensor | None, lengths: Tensor) -> Tensor:
        assert theirs is not None
        good, bad = (1, 0) if self.reverse else (0, 1)
        return f.dpo(own[good::2], own[bad::2], theirs[good::2], theirs[bad::2], beta=self.beta,
                     label_smoothing=self.label_smoothing, reduction="none")  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name}(beta={self.beta:g}, label_smoothing={self.label_smoothing:g})"


def dpo(*, beta: float = 0.1, label_smoothing: float = 0.0, reverse: bool = False) -> Dpo:
    """-log sigmoid(beta ((w - w_ref) - (l - l_ref))), w and l the log-probabilities of chosen and rejected answers.

    The reference is the role "reference" (`.against` names another). `reverse` takes the rejected answers for the better
    ones. Additive over pairs. See `functional.dpo` (Rafailov et al., 2023).
    """
    return Dpo(beta, label_smoothing, reverse)


class Redi(Pairs):
    """See `redi`."""

    def __init__(self, alpha: float, gamma: float | None):
        super().__init__("redi")
        self.alpha, self.gamma = alpha, gamma

    def pair(self, own: Tensor, theirs: Tensor | None, lengths: Tensor) -> Tensor:
        return f.redi(own[::2], own[1::2], lengths[::2], lengths[1::2], alpha=self.alpha, gamma=self.gamma,
                      reduction="none")  # fmt: skip

    def __str__(self) -> str:
        return f"redi(alpha={self.alpha:g}, gamma={self.gamma})"


def redi(*, alpha: float = 0.8, gamma: float | None = None) -> Redi:
    """-log p(chosen)/|chosen| + alpha log p(rejected)/|rejected|, without a reference. Additive over pairs.

    See `functional.redi` (Xu et al., 2025). Unbounded below: watch the likelihood of the chosen answers.
    """
    return Redi(alpha, gamma)


class PerSequence(Answers):
    """See `per_sequence`."""

    def __init__(self, term: Formula, average: bool, over: str | None):
        super().__init__(f"{term.name} per sequence")
        if term.per != "item" or term.projection or term.transform is not None:
            raise ArgumentError(f"{term.name!r} has no value for each token, and so no mean within a sequence.")
        self.term, self.average = term, average
        self.over = None if over is None else Ref.parse(over, "teacher")
        self.group = term.group

    def needs(self) -> list[Ref]:
        return self.term.needs() + ([] if self.over is None else [self.over])

    def values(self, step: Step) -> Tensor:
        assert self.term.student_ref is not None
        student = step.signal(self.term.student_ref)
        teacher = None if self.term.teacher_ref is None else step.signal(self.term.teacher_ref)
        labels = self.labels(step) if self.term.declaration.labels else None
        mask = step.batch.extra.get("mask")
        if mask is None or labels is not None:
            mask = self.labels(step) != UNLABELLED
        found = token_values(student, teacher, labels, mask, self.term.token_term())
        if self.over is not None:
            found = found / step.signal(self.over).detach()
        return f.per_sequence(found, mask, average=self.average)

    def __str__(self) -> str:
        more = "" if self.average else ", average=False"
        return f"per_sequence({self.term}{more}{'' if self.over is None else f', over={str(self.over)!r}'})"


def per_sequence(term: Formula, *, average: bool = True, over: str | None = None) -> PerSequence:
    """A token divergence averaged within each answer first, so that short answers weigh as much as long ones.

    `average=False` adds up an answer's tokens. `over` names a signal [batch, tokens] by which the values are divided, such
    as "target:strength". Additive over answers (FIRST, AlignDistil).
    """
    return PerSequence(term, average, over)


__all__ = ["Answers", "Dpo", "Pairs", "PerSequence", "Redi", "dpo", "per_sequence", "redi"]
