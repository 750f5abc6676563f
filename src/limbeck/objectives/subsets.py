"""Terms that look at a part of the vocabulary, and at what neighbouring tokens have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.core import Declaration, Reduction, reduce
from limbeck.functional.response import _log_softmax
from limbeck.functional.subset import probability_quantile, soft_subset_kl
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import Formula
from limbeck.signals.blocks import TokenTerm
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Ref, Step

BLOCK = 128  # pairs of tokens whose logits are there at once


class SubsetNetwork(nn.Module):
    """From the `top` largest probabilities of the teacher, and the student's of the same classes, two quantile levels.

    As a function: `soft_subset_kl` with the thresholds that these levels mean, for every token on its own.
    """

    declaration = Declaration(
        "learned_subset_kl", "item", ("student", "teacher", "labels"), "logits", "logits", {}, "keep"
    )

    def __init__(self, top: int, hidden: int, width: float, seed: int):
        super().__init__()
        self.top, self.width = top, width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner, self.levels = nn.Linear(2 * top, hidden), nn.Linear(hidden, 2)
        nn.init.zeros_(self.levels.weight)
        with torch.no_grad():  # at first the upper half of the classes, by their number, but for the last hundredth
            self.levels.bias.copy_(torch.tensor([0.5, 0.99]).logit())

    def thresholds(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [...] from which and up to which a class counts."""
        p, q = (_log_softmax(each.detach()).exp() for each in (teacher, student))
        most, ids = p.topk(min(self.top, p.shape[-1]), -1)
        features = torch.zeros(*p.shape[:-1], 2 * self.top, dtype=p.dtype, device=p.device)
        features[..., : most.shape[-1]] = most
        features[..., self.top : self.top + most.shape[-1]] = q.gather(-1, ids)
        levels = self.levels(torch.tanh(self.inner(features.to(self.inner.weight.dtype)))).sigmoid().to(p.dtype)
        return probability_quantile(p, levels[..., 0]), probability_quantile(p, levels[..., 1])

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None, *, mask: Tensor | None = None,
                reduction: Reduction = "mean") -> Tensor:  # fmt: skip
        lower, upper = self.thresholds(student, teacher)
        values = soft_subset_kl(student, teacher, labels, lower, upper, width=self.width, reduction="none")
        return reduce(values, mask, reduction)


class LearnedSubset(Formula):
    """See `learned_subset_kl`."""

    def __init__(self, top: int, hidden: int, width: float, seed: int):
        super().__init__(SubsetNetwork(top, hidden, width, seed), {})

    def token_term(self) -> TokenTerm:
        return TokenTerm(self.function, parameters=tuple(self.function.parameters()))  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"learned_subset_kl(top={self.function.top})"  # type: ignore[attr-defined]


def learned_subset_kl(*, top: int = 32, hidden: int = 32, width: float = 0.01, seed: int = 0) -> LearnedSubset:
    """KL(teacher || student) over the dense part of the distribution, whose two bounds a small network learns (DAC-KL).

    The network reads the teacher's `top` largest probabilities and the student's of these classes, and says between which
    two quantiles of the teacher's probabilities a class counts; the label and the teacher's first choice always do. The set
    is soft by `width` (see `functional.soft_subset_kl`), so that the network learns by the same loss (multi-granularity
    semantic revision, Liu et al., 2024; no code is published, details ours). Additive over tokens.
    """
    return LearnedSubset(top, hidden, width, seed)


class SpanCorrelation(Term):
    """See `span_correlation`."""

    def __init__(self, size: int, top_k: int | None):
        super().__init__("span_correlation")
        if size < 2:
            raise ArgumentError(f"size={size!r}: a span has 2 tokens or more.")
        self.size, self.top_k = size, top_k

    def needs(self) -> list[Ref]:
        return [Ref("self", "logits"), Ref("teacher", "logits")]

    def values(self, step: Step) -> Tensor:
        student, teacher = (step.signal(ref) for ref in self.needs())
        if student.ndim != 3:
            raise SignalError(f"{self.name!r} needs logits [batch, tokens, vocabulary], not {list(student.shape)}.")
        joined = self.neighbours(step)
        first = joined.reshape(-1).nonzero()[:, 0]
        norms = [_norms(student, teacher, rows, self.top_k) for rows in first.split(BLOCK)]
        found = torch.zeros(joined.numel(), dtype=torch.float32, device=student.device)
        if norms:
            found = found.to(norms[0].dtype).index_put((first,), torch.cat(norms))
        return found.view(joined.shape).sum(1) / joined.sum(1).clamp(min=1)

    def neighbours(self, step: Step) -> Tensor:
        """Which tokens [batch, tokens] belong to one span with the next one."""
        batch = step.batch
        spans = batch.extra.get("spans")
        mask = batch.extra.get("mask")
        if mask is None:
            raise SignalError(f"{self.name!r} needs a mask of the tokens that count; this batch has none.")
        if spans is None:  # runs of `size` tokens that count
            spans = (mask.long().cumsum(1) - 1) // self.size
        inside = mask.bool() & mask.bool().roll(-1, 1) & (spans == spans.roll(-1, 1))
        inside[:, -1] = False
        return inside

    def __str__(self) -> str:
        return f"span_correlation(size={self.size}, top_k={self.top_k})"


def span_correlation(*, size: int = 3, top_k: int | None = 64) -> SpanCorrelation:
    """|p_i p_(i+1) - q_i q_(i+1)|, L2 norm of products class by class, over neighbours in a span; the mean of an answer's.

    Spans are `batch.extra["spans"]` [batch, tokens] (a number for each, of a chunker) where there are any, else runs of
    `size` tokens. `top_k`: only the classes with the teacher's largest products, as the others are nearly 0; None for all.
    Additive over answers. Lazy logits are made for few tokens at a time (span correlation of multi-granularity semantic
    revision, Liu et al., 2024; our reading).
    """
    return SpanCorrelation(size, top_k)


def _norms(student: Any, teacher: Any, rows: Tensor, top_k: int | None) -> Tensor:
    """Values [rows] of tokens and their next ones, by indices into the flattened leading axes."""
    size = min(student.shape[-1], teacher.shape[-1])

    def logits(signal: Any, at: Tensor) -> Tensor:
        if isinstance(signal, Lazy):
            return replace(signal, size=size).block(at)
        if not isinstance(signal, Tensor):  # what a store kept
            return signal.block(at)[:, :size]
        return signal.reshape(-1, signal.shape[-1])[at, :size]

    def compare(*_: Any) -> Tensor:
        with torch.no_grad():
            p = (_log_softmax(logits(teacher, rows)) + _log_softmax(logits(teacher, rows + 1))).exp()
            ids = None if top_k is None else p.topk(min(top_k, size), -1).indices
            p = p if ids is None else p.gather(-1, ids)
        one, two = (_log_softmax(logits(student, rows + step)) for step in (0, 1))
        if ids is not None:
            one, two = one.gather(-1, ids), two.gather(-1, ids)
        return torch.linalg.vector_norm(p - (one + two).exp(), dim=-1)

    # the logits of a block are made again when its gradient is asked for
    return checkpoint(compare, rows, use_reentrant=False) if student.requires_grad else compare()


__all__ = ["LearnedSubset", "SpanCorrelation", "SubsetNetwork", "learned_subset_kl", "span_correlation"]
