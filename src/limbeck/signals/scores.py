"""One value for every token, from logits that are never whole; differentiable one by one.

A loss that is a sum over tokens walks (`limbeck.signals.lazy.walk`). What is not, such as DPO of two answers, a clipped
policy gradient, or the likelihood of a piece of several tokens, is written as ordinary autograd on the values [...] that
`token_values` gives: its backward takes a gradient for each token and goes over the blocks once more with these as their
coefficients. Everything here takes lazy and whole logits alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.functional.core import labelled
from limbeck.functional.preference import per_sequence
from limbeck.functional.response import cross_entropy
from limbeck.functional.selection import entropy
from limbeck.signals.blocks import TokenTerm
from limbeck.signals.sides import Logits, leaves
from limbeck.signals.sweep import Sweep, ordinary_autograd, refuse_second_order, scaled, unit_of


def token_values(student: Logits, teacher: Logits | None, labels: Tensor | None, mask: Tensor | None,
                 term: TokenTerm | Callable[..., Tensor], *, memory: int | None = None) -> Tensor:  # fmt: skip
    """The values [...] of a token divergence, with a gradient for each, without ever holding a second [..., vocabulary].

    student [..., vocabulary], lazy or whole; teacher: None, or the same leading axes and its own vocabulary (compared on
    the shared part), never with a gradient; labels [...] int64 (-100: none); mask [...]: 0 drops a token, whose value and
    gradient are 0 and which is not even projected; another number multiplies its value. `term` is a `TokenTerm`, a
    declared formula, or a plain function `f(student [rows, V], teacher [rows, V] | None, labels [rows] | None) ->
    values [rows]`; items without a label have the value 0 under a formula that leaves them out.

    In float32 at least. Backward reaches hidden states, matrix, bias (or whole logits) and what is trained in the term; it
    projects once more, so that this costs half as much again as `walk`, which is for sums. `memory` as in `walk`. Raises
    SignalError as `walk` does.
    """
    made = term if isinstance(term, TokenTerm) else TokenTerm(term)
    sweep = Sweep.of(student, teacher, labels, mask, [made], memory)
    with ordinary_autograd("token_values()"):
        return _TokenValues.apply(sweep, *leaves(student), *sweep.parameters)


class _TokenValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *trained: Tensor | None) -> Tensor:
        ctx.sweep = sweep
        # kept for what autograd makes of it: an error, where one of them was changed in place before backward
        ctx.save_for_backward(*trained)
        shape = sweep.student.shape[:-1]
        values = sweep.counts.new_zeros(shape.numel())
        found = sweep.run(sweep.counts[None], [None] * len(trained))[0]
        values[sweep.rows] = found * sweep.counts
        return values.view(shape)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("token_values()")
        sweep, trained = ctx.sweep, ctx.saved_tensors
        gradients = sweep.zeros(trained, ctx.needs_input_grad[1:])
        coefficients = upstream.reshape(-1)[sweep.rows].to(sweep.exact) * sweep.counts
        unit = unit_of(coefficients)
        sweep.run((coefficients / unit)[None], gradients)
        dtypes = [None if t is None else t.dtype for t in trained]
        return None, *(scaled(gradient, unit, dtype) for gradient, dtype in zip(gradients, dtypes))


def label_log_probabilities(logits: Logits, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """log p[label] [...] of logits [..., vocabulary] and labels [...]; 0 where the label is -100 or the mask [...] is 0."""
    return -token_values(logits, None, labels, mask, cross_entropy)


def sequence_log_probabilities(logits: Logits, labels: Tensor, mask: Tensor | None = None, *,
                               average: bool = False) -> Tensor:  # fmt: skip
    """Sum over the labelled tokens of log p[label]: [batch] of logits [batch, tokens, vocabulary], labels [batch, tokens].

    `average` divides by their number (by 1 where there is none); a mask [batch, tokens] leaves out more.
    """
    values = label_log_probabilities(logits, labels)
    return per_sequence(values, labelled(labels, mask), average=average)


def token_entropies(logits: Logits, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """-sum p log p [...] in nats of logits [..., vocabulary], softened by a temperature; 0 where the mask [...] is 0."""
    return token_values(logits, None, None, mask, TokenTerm(entropy, {"temperature": temperature}))
