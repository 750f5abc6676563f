"""The three losses of DistilBERT on masked texts: the teachers' words, the words left out, and the last hidden state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.functional.attention import token_mean
from limbeck.functional.response import cross_entropy, forward_kl
from limbeck.objectives.algebra import Sum, Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step

if TYPE_CHECKING:
    from limbeck.training.masked_words import MaskedStage


def mean_log_probabilities(logits: list[Tensor], temperature: float = 1.0) -> Tensor:
    """The log of the mean of several teachers' probabilities at a temperature, of logits [..., words] each."""
    stacked = torch.stack([(one / temperature).log_softmax(-1) for one in logits])
    return torch.logsumexp(stacked, 0) - torch.tensor(float(len(logits))).log()


class _Masked(Term):
    def __init__(self, name: str, stage: MaskedStage, head: nn.Module | None):
        super().__init__(name)
        self.stage, self.head = stage, head
        self.ours = Ref("self/masked", stage.student)

    def words(self, step: Step) -> Tensor:
        assert self.head is not None
        return self.head.to(step.batch.ids.device)(upcast(step.signal(self.ours)))

    def needs(self) -> list[Ref]:
        return [self.ours]

    def masked(self, step: Step) -> dict[str, Any]:
        return self.stage.masking.of(step.batch, step)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.needs()))}, rate={self.stage.masking.rate:g})"


class MaskedKL(_Masked):
    """T^2 KL(mean of the teachers' probabilities || student) of the words of all tokens."""

    def __init__(self, stage: MaskedStage, temperature: float):
        super().__init__("masked_kl", stage, stage.head)
        self.temperature = temperature

    def needs(self) -> list[Ref]:
        return [self.ours, *(Ref(ref.role, "logits") for ref in self.stage.teachers)]

    def values(self, step: Step) -> Tensor:
        t, theirs = self.temperature, [upcast(step.signal(ref)) for ref in self.needs()[1:]]
        target = t * mean_log_probabilities(theirs, t)  # so that its softmax at T is the mean
        found = forward_kl(self.words(step), target, temperature=t, reduction="none")
        return token_mean(found, self.masked(step)["attention_mask"])


class MaskedWords(_Masked):
    """Cross-entropy of the words that were left out."""

    def __init__(self, stage: MaskedStage):
        super().__init__("masked_words", stage, stage.head)

    def values(self, step: Step) -> Tensor:
        found = self.masked(step)
        return token_mean(cross_entropy(self.words(step), found["labels"], reduction="none"), found["left_out"])


class MaskedCosine(_Masked):
    """1 - cosine of the last hidden states, the mean over teachers and tokens."""

    def __init__(self, stage: MaskedStage):
        super().__init__("masked_cosine", stage, None)

    def needs(self) -> list[Ref]:
        return [self.ours, *self.stage.teachers]

    def values(self, step: Step) -> Tensor:
        ours, *theirs = (upcast(step.signal(ref)) for ref in self.needs())
        for ref, state in zip(self.stage.teachers, theirs, strict=True):
            if state.shape != ours.shape:
                raise SignalError(
                    f"The last hidden state of the student is {list(ours.shape)}, that of {ref.role} {list(state.shape)}: the "
                    "cosine is of one width. Give cosine=0, or a student as wide as its teachers."
                )
        found = torch.stack([1 - F.cosine_similarity(ours, state.detach(), dim=-1) for state in theirs]).mean(0)
        return token_mean(found, self.masked(step)["attention_mask"])


def masked_triple(stage: MaskedStage, soft: float, hard: float, cosine: float, temperature: float) -> Sum:
    """soft * MaskedKL + hard * MaskedWords + cosine * MaskedCosine; each the mean over a text's tokens, then over texts.

    The words of the student come from a copy of the first teacher's head on its last hidden state, which learns beside it and
    belongs to the objective.
    """
    return soft * MaskedKL(stage, temperature) + hard * MaskedWords(stage) + cosine * MaskedCosine(stage)
