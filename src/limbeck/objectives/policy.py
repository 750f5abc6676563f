"""Terms over answers that models wrote: policy gradients, token divergences weighed or chosen token by token.

They take what `limbeck.training.on_policy.OnPolicy` puts beside the tokens of an answer (`batch.extra`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from limbeck import functional as f
from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.policy import Estimate
from limbeck.objectives.formula import Formula
from limbeck.objectives.sequences import Answers
from limbeck.signals.blocks import TokenTerm
from limbeck.signals.scores import token_entropies, token_values
from limbeck.signals.step import Ref, Step


def known(step: Step, name: str, term: str) -> Tensor:
    """What the batch's source says of each token [batch, tokens]. Raises SignalError where it says nothing."""
    found = step.batch.extra.get(name)
    if found is None:
        raise SignalError(
            f"{term!r} needs {name!r} of every token of an answer, and this batch has {sorted(step.batch.extra)}. It comes "
            "from a source that writes answers and scores them (OnPolicy with score= or judge=)."
        )
    return found


class PolicyGradient(Answers):
    """See `policy_gradient`."""

    def __init__(self, advantage: str, clip: float, clip_high: float | None, weight: str | None):
        super().__init__("policy_gradient")
        if not clip > 0:
            raise ArgumentError(f"clip={clip!r}: expected a positive number.")
        self.advantage, self.clip, self.clip_high, self.weight = advantage, clip, clip_high, weight

    def needs(self) -> list[Ref]:
        return [Ref("self", "logits")]

    def values(self, step: Step) -> Tensor:
        own = self.log_probabilities(step, Ref("self", "logits"))
        advantages = known(step, self.advantage, self.name)
        weight = None if self.weight is None else known(step, self.weight, self.name)
        return f.clipped_policy(
            own, step.batch.extra.get("old", own.detach()), advantages if advantages.ndim == 2 else advantages[:, None],
            clip=self.clip, clip_high=self.clip_high, weight=weight, reduction="none",
        )  # fmt: skip

    def __str__(self) -> str:
        weight = "" if self.weight is None else f", weight={self.weight!r}"
        return f"policy_gradient({self.advantage!r}, clip={self.clip:g}{weight})" + (
            "" if self.group is None else f".among({self.group!r})"
        )


def policy_gradient(advantage: str = "advantage", *, clip: float = 0.2, clip_high: float | None = None,
                    weight: str | None = None) -> PolicyGradient:  # fmt: skip
    """max(-A r, -A clip(r, 1 - clip, 1 + clip_high)), r = exp(log p - old) of the answers' tokens; the mean over tokens.

    `advantage` and `weight` name values of `batch.extra`, [batch, tokens] (or [batch], for whole answers); "old" is the
    log-probability of the student that wrote: without it the student as it is (each rollout is used once), and nothing is
    clipped. See `functional.clipped_policy`.
    """
    return PolicyGradient(advantage, clip, clip_high, weight)


class KlEstimate(Answers):
    """See `kl_estimate`."""

    def __init__(self, kind: Estimate, by: str | None):
        super().__init__(f"kl_{kind}")
        f.kl_estimate(torch.zeros(1), torch.zeros(1), kind=kind)  # refuses a kind that it does not know
        self.kind, self.by, self.teacher = kind, by, Ref("teacher", "logits")

    def against(self, role: str) -> Self:
        """Take the teacher from another role."""
        self.teacher = Ref(role, "logits")
        return self

    def needs(self) -> list[Ref]:
        return [Ref("self", "logits"), self.teacher]

    def values(self, step: Step) -> Tensor:
        with torch.no_grad():
            theirs = self.log_probabilities(step, self.teacher)
        own = self.log_probabilities(step, Ref("self", "logits"))
        found = f.kl_estimate(own, theirs, kind=self.kind, reduction="none")
        return found if self.by is None else found * known(step, self.by, self.name)

    def __str__(self) -> str:
        return f"kl_estimate({self.kind!r}{'' if self.by is None else f', by={self.by!r}'})"


def kl_estimate(kind: Estimate = "k2", *, by: str | None = None) -> KlEstimate:
    """KL(student || teacher) estimated from the tokens of the student's own answers, with the teacher's logits on them.

    `by` names a value of `batch.extra` [batch, tokens] that multiplies each token's, such as the mask of answers that failed;
    the mean is over all tokens, as that of `policy_gradient`. See `functional.kl_estimate` for what each kind teaches.
    """
    return KlEstimate(kind, by)


class Weighed(Answers):
    """See `weighed`."""

    def __init__(self, term: Formula, by: str):
        super().__init__(f"{term.name} by {by}")
        _per_token(term)
        self.term, self.by, self.group, self.labelled = term, by, term.group, term.labelled

    def needs(self) -> list[Ref]:
        return self.term.needs()

    def values(self, step: Step) -> Tensor:
        return _values(self.term, step, None) * known(step, self.by, self.name).detach()

    def __str__(self) -> str:
        return f"weighed({self.term}, {self.by!r})"


def weighed(term: Formula, by: str) -> Weighed:
    """A token divergence times `batch.extra[by]` [batch, tokens]; the mean is over all tokens, not divided by the weights."""
    return Weighed(term, by)


class Selected(Answers):
    """See `selected`."""

    def __init__(self, term: Formula, tokens: str, share: float):
        super().__init__(f"{term.name} on {tokens}")
        _per_token(term)
        if tokens not in _SELECT:
            raise ArgumentError(f"tokens={tokens!r}: expected one of {sorted(_SELECT)}.")
        self.term, self.tokens, self.share, self.group = term, tokens, share, term.group

    def needs(self) -> list[Ref]:
        return self.term.needs()

    def values(self, step: Step) -> Tensor:
        assert self.term.student_ref is not None
        student = step.signal(self.term.student_ref)
        with torch.no_grad():
            mask = step.batch.extra["mask"].bool()
            kept = _SELECT[self.tokens](token_entropies(student.detach(), mask), mask, share=self.share)
        return f.per_sequence(_values(self.term, step, kept), kept)

    def __str__(self) -> str:
        return f"selected({self.term}, {self.tokens!r}, share={self.share:g})"


_SELECT: dict[str, Callable[..., Tensor]] = {"opening": f.opening, "uncertain": f.highest_share}


def selected(term: Formula, tokens: str, *, share: float = 0.1) -> Selected:
    """A token divergence on some tokens of each answer: the mean over these, then over answers (TSD-KD, 2026).

    `tokens`: the "opening", until the answer has spent a `share` of the student's entropy, or the "uncertain" ones, the
    `share` of them with the highest entropy. Chosen by the student as it is, within each answer. Additive over answers.
    """
    return Selected(term, tokens, share)


def _per_token(term: Formula) -> None:
    if not isinstance(term, Formula) or term.per != "item" or term.projection or term.transform is not None:
        raise ArgumentError(f"{term.name!r} has no value for each token.")


def _values(term: Formula, step: Step, mask: Tensor | None) -> Tensor:
    """The values [batch, tokens] of a formula, lazily where logits are lazy."""
    assert term.student_ref is not None
    student = step.signal(term.student_ref)
    teacher = None if term.teacher_ref is None else step.signal(term.teacher_ref)
    labels = step.batch.labels if term.declaration.labels else None
    mask = step.batch.extra.get("mask") if mask is None else mask
    return token_values(student, teacher, labels, mask, TokenTerm(term.function, term.options))
