"""Logits that are never whole: `Lazy` stands for them, `walk` compares them block by block.

A language model's logits are its hidden states times its output matrix. With 2,048 tokens and a vocabulary of 128,000
they are one GB, for student and teacher each, and as much again for every step of a formula and its gradient. A token
divergence needs only the rows of one token at a time, so `walk` forms a block of rows, finds the values and the gradient
at those logits, takes the gradient to hidden states and matrix by two matrix products, and reuses the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from limbeck.errors import SignalError
from limbeck.signals.blocks import Post, TokenTerm
from limbeck.signals.sides import Logits, leaves
from limbeck.signals.sweep import Sweep, ordinary_autograd, refuse_second_order, scaled, unit_of


@dataclass(eq=False)
class Lazy:
    """A signal that stands for `post(hidden @ weight.T + bias)[..., :size]`.

    hidden [..., width], weight [vocabulary, width], bias [vocabulary]. `size` is the part of the vocabulary that counts:
    a padded vocabulary is compared on the part that both sides share, the rest stays outside both softmaxes. `dtype` is
    that of the matrix product: autocast's where the `Lazy` is made under it, else the lower of hidden and weight.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    post: Post = field(default_factory=Post)
    size: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.hidden.ndim < 2 or self.hidden.shape[-1:] != self.weight.shape[1:]:
            raise SignalError(
                f"Lazy logits need hidden [..., width] and weight [vocabulary, width], not {list(self.hidden.shape)} and "
                f"{list(self.weight.shape)}. Take the hidden states that the output layer itself receives."
            )
        vocabulary = self.weight.shape[0]
        if self.bias is not None and self.bias.shape != (vocabulary,):
            raise SignalError(f"Lazy logits need a bias [{vocabulary}], not {list(self.bias.shape)}.")
        if self.size is not None and not 0 < self.size <= vocabulary:
            raise SignalError(f"size={self.size}: expected 1 to {vocabulary}, the rows of the weight.")
        if self.dtype is None:
            device, lower = (
                self.hidden.device.type,
                min(self.hidden.dtype, self.weight.dtype, key=lambda one: one.itemsize),
            )
            cast = torch.is_autocast_enabled(device) and lower != torch.float64
            self.dtype = torch.get_autocast_dtype(device) if cast else lower

    @property
    def shape(self) -> torch.Size:
        """[..., size]"""
        return torch.Size((*self.hidden.shape[:-1], self.vocabulary))

    @property
    def vocabulary(self) -> int:
        """How many logits of a row count."""
        return self.weight.shape[0] if self.size is None else self.size

    @property
    def ndim(self) -> int:
        return self.hidden.ndim

    @property
    def device(self) -> torch.device:
        return self.hidden.device

    @property
    def requires_grad(self) -> bool:
        return any(t is not None and t.requires_grad for t in (self.hidden, self.weight, self.bias))

    def __len__(self) -> int:
        return len(self.hidden)

    def detach(self) -> Lazy:
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)

    def to(self, device: torch.device | str) -> Lazy:
        """The same on another device, where it can be walked with others.

        Hidden states are moved each time, matrix and bias are copied once and again only when they have changed: hidden
        states are small, while the matrix, or the logits block by block, would be the traffic of every step.
        """
        place = torch.device(device)
        if self.device == place:
            return self
        bias = None if self.bias is None else _copy_at(self.bias, place)
        return replace(self, hidden=self.hidden.to(place), weight=_copy_at(self.weight, place), bias=bias)

    def whole(self) -> Tensor:
        """All logits [..., size] as one tensor, differentiable. For what is small, or must see every row at once."""
        return self._project(self.hidden)

    def block(self, rows: Tensor) -> Tensor:
        """The logits [number, size] of some rows: indices [number] into the flattened leading axes. Differentiable."""
        return self._project(self.hidden[torch.unravel_index(rows, self.hidden.shape[:-1])])

    def _project(self, hidden: Tensor) -> Tensor:
        weight, bias = self.operands()
        with torch.autocast(self.device.type, enabled=False):
            return self.post(torch.nn.functional.linear(hidden.to(self.dtype), weight, bias))

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The rows of the matrix and of the bias that count, in the dtype of the product."""
        bias = None if self.bias is None else self.bias[: self.vocabulary].to(self.dtype)
        return self.weight[: self.vocabulary].to(self.dtype), bias


_copies = WeakTensorKeyDictionary()  # by the tensor that was copied, with which its copies go


def _copy_at(tensor: Tensor, place: torch.device) -> Tensor:
    if tensor.requires_grad and torch.is_grad_enabled():
        return tensor.to(place)  # it learns: its gradient is to come back
    known = _copies.setdefault(tensor, {})
    if place not in known or known[place][0] != tensor._version:
        known[place] = tensor._version, tensor.detach().to(place)
    return known[place][1]


def walk(student: Lazy, teacher: Logits | None, labels: Tensor | None, mask: Tensor | None,
         terms: Sequence[TokenTerm | Callable[..., Tensor]], weights: Tensor, *,
         memory: int | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums of token divergences over all tokens, without ever holding [tokens, vocabulary].

    Returns `(total, values)`. `values` [terms]: the sum of each term over the tokens, for logs, without gradient.
    `total` = sum_i weights[i] * values[i], whose backward reaches hidden states, matrix, bias, weights, and what is
    trained in the terms. Means come by the weights, `weights[i] = w_i / count_i`, or by one `total / count`: both are
    exact in half precision, since gradients are kept at the size of one token's, in float32, until backward scales them.
    What is no sum over tokens is written on top of `limbeck.signals.token_values`.

    student [..., vocabulary]; teacher: the same leading axes, its own vocabulary (compared on the shared part), never
    with a gradient; labels [...] int64 (-100: none); mask [...]: 0 drops a token (it is not even projected), another
    number weighs it; weights [terms], which may require gradients. A term is a `TokenTerm`, or a plain function
    `f(student [rows, V], teacher [rows, V] | None, labels [rows] | None) -> values [rows]`. `memory`: bytes of logits
    that are held at once, 128 MiB by default, or as much as the matrix takes in float32 if that is more. More is hardly
    faster; with 64 rows or fewer (a matrix product of so few is slow) it takes a fifth longer.

    Raises SignalError for shapes that do not meet, labels outside the shared vocabulary, a term that gives another shape
    than [rows] or trains something that it did not declare, and under torch.func transforms.
    """
    if not isinstance(student, Lazy):
        raise SignalError(f"walk() takes lazy logits of the student, not a {type(student).__name__}.")
    if not terms or weights.shape != (len(terms),):
        raise SignalError(f"walk() takes one weight for each of the {len(terms)} terms, not {list(weights.shape)}.")
    made = [term if isinstance(term, TokenTerm) else TokenTerm(term) for term in terms]
    sweep = Sweep.of(student, teacher, labels, mask, made, memory)
    with ordinary_autograd("walk()"):
        return _Walk.apply(sweep, *leaves(student), weights, *sweep.parameters)


class _Walk(torch.autograd.Function):
    """Finds the gradients in its forward pass; its backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor,
                *parameters: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        wanted = [sweep.graph and need for need in ctx.needs_input_grad]
        trained = [hidden, weight, bias, *parameters]
        gradients = sweep.zeros(trained, [*wanted[1:4], *wanted[5:]])
        factors = weights.detach().to(sweep.exact)
        unit = unit_of(factors)
        values = sweep.run(torch.outer(factors / unit, sweep.counts), gradients) @ sweep.counts
        ctx.dtypes = [None if t is None else t.dtype for t in (*trained, weights)]
        ctx.save_for_backward(unit, values, *gradients)
        ctx.mark_non_differentiable(values)
        return (factors * values).sum(), values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        refuse_second_order("walk()")
        unit, values, *gradients = ctx.saved_tensors
        factors = [*[upstream * unit] * len(gradients), upstream]
        *scaled_, weights = map(scaled, [*gradients, values], factors, ctx.dtypes)
        return None, *scaled_[:3], weights, *scaled_[3:]
