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

from limbeck.errors import SignalError
from limbeck.functional.core import UNLABELLED
from limbeck.signals.blocks import Block, Post, TokenTerm


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


def walk(student: Lazy, teacher: Lazy | Tensor | None, labels: Tensor | None, mask: Tensor | None,
         terms: Sequence[TokenTerm | Callable[..., Tensor]], weights: Tensor, *,
         block: int = 128) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums of token divergences over all tokens, without ever holding [tokens, vocabulary].

    Returns `(total, values)`. `values` [terms]: the sum of each term over the tokens, for logs, without gradient.
    `total` = sum_i weights[i] * values[i], whose backward reaches hidden states, matrix, bias, weights, and what is
    trained in the terms. Means come by the weights, `weights[i] = w_i / count_i`, or by one `total / count`: both are
    exact in half precision, since gradients are kept at the size of one token's, in float32, until backward scales them.

    student [..., vocabulary]; teacher: the same leading axes, its own vocabulary (compared on the shared part), never
    with a gradient; labels [...] int64 (-100: none); mask [...]: 0 drops a token (it is not even projected), another
    number weighs it; weights [terms], which may require gradients. A term is a `TokenTerm`, or a plain function
    `f(student [block, V], teacher [block, V] | None, labels [block] | None) -> values [block]`.

    Raises SignalError for shapes that do not meet, labels outside the shared vocabulary, a term that gives another shape
    than [block] or trains something that it did not declare, and under torch.func transforms.
    """
    made = [term if isinstance(term, TokenTerm) else TokenTerm(term) for term in terms]
    plan = _Plan.make(student, teacher, labels, mask, made, weights, block)
    parameters = list({id(p): p for term in made for p in term.parameters}.values())
    try:
        return _Walk.apply(plan, student.hidden, student.weight, student.bias, weights, *parameters)
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise SignalError(
            "walk() finds its gradients in its forward pass, so it cannot run under torch.func (grad, vmap, jacrev, ...). "
            "Compare `lazy.whole()` there, or use backward()."
        ) from error


@dataclass
class _Plan:
    """What a walk needs beside the tensors that get gradients."""

    student: Lazy
    teacher: Lazy | Tensor | None
    labels: Tensor | None
    mask: Tensor | None
    terms: list[TokenTerm]
    block: int
    graph: bool  # whether gradients are wanted at all

    @classmethod
    def make(cls, student: Lazy, teacher: Lazy | Tensor | None, labels: Tensor | None, mask: Tensor | None,
             terms: list[TokenTerm], weights: Tensor, block: int) -> _Plan:  # fmt: skip
        if not isinstance(student, Lazy):
            raise SignalError(f"walk() takes lazy logits of the student, not a {type(student).__name__}.")
        if not terms or weights.shape != (len(terms),):
            raise SignalError(f"walk() takes one weight for each of the {len(terms)} terms, not {list(weights.shape)}.")
        if block < 1:
            raise SignalError(f"block={block}: expected 1 row or more; 64 to 256 are fast.")
        lead = list(student.shape[:-1])
        for name, shape in (("teacher's logits", None if teacher is None else teacher.shape[:-1]),
                            ("labels", None if labels is None else labels.shape),
                            ("mask", None if mask is None else mask.shape)):  # fmt: skip
            if shape is not None and list(shape) != lead:
                raise SignalError(f"The student's logits are for tokens of shape {lead}, the {name} for {list(shape)}.")
        for term in terms:
            term.check(teacher is not None, labels is not None)
        size = student.vocabulary if teacher is None else min(student.vocabulary, teacher.shape[-1])
        teacher = None if teacher is None else teacher.detach()
        if isinstance(teacher, Lazy):
            teacher = replace(teacher, size=size)
        elif teacher is not None:
            teacher = teacher[..., :size]
        return cls(replace(student.detach(), size=size), teacher, labels, mask, terms, block, torch.is_grad_enabled())

    @property
    def exact(self) -> torch.dtype:
        """The dtype in which terms are computed and gradients are added."""
        return torch.float64 if self.student.dtype == torch.float64 else torch.float32

    def rows(self) -> tuple[Tensor, Tensor]:
        """Indices [number] of the tokens that count, and how much each counts [number]."""
        mask = None if self.mask is None else self.mask.reshape(-1)
        if self.labels is not None and all(term.labelled for term in self.terms):
            known = self.labels.reshape(-1) != UNLABELLED
            mask = known if mask is None else known * mask
        if mask is None:
            mask = torch.ones(self.student.shape[:-1].numel(), dtype=torch.bool, device=self.student.device)
        rows = mask.nonzero()[:, 0]
        if self.labels is not None and any(term.declaration and term.declaration.labels for term in self.terms):
            size = self.student.vocabulary
            if (self.labels.reshape(-1)[rows] >= size).any():
                raise SignalError(f"A label lies outside the shared vocabulary of {size}: mark it {UNLABELLED}.")
        return rows, mask[rows].to(self.exact)


class _Walk(torch.autograd.Function):
    """Finds the gradients in its forward pass; its backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor,
                *parameters: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        wanted = [plan.graph and need for need in ctx.needs_input_grad]
        trained = zip((hidden, weight, bias, *parameters), (*wanted[1:4], *wanted[5:]))
        with torch.autocast(hidden.device.type, enabled=False):
            factors = weights.detach().to(plan.exact)
            # gradients are kept at the size of one token's: divided by a count of tokens float16 would lose them
            unit = factors.abs().amax()
            unit = unit.where(unit > 0, 1.0)
            gradients = [
                torch.zeros_like(t, dtype=plan.exact) if want and t is not None else None for t, want in trained
            ]
            values = _sweep(plan, factors / unit, gradients, parameters)
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias, *parameters, weights)]
        ctx.save_for_backward(unit, values, *gradients)
        ctx.mark_non_differentiable(values)
        return (factors * values).sum(), values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise SignalError(
                "The gradients of walk() are constants and cannot be differentiated again, as create_graph=True asks. "
                "Compare `lazy.whole()` there."
            )
        unit, values, *gradients = ctx.saved_tensors
        factors = [*[upstream * unit] * len(gradients), upstream]
        *scaled, weights = map(_scaled, [*gradients, values], factors, ctx.dtypes)
        return None, *scaled[:3], weights, *scaled[3:]


def _scaled(gradient: Tensor | None, factor: Tensor, dtype: torch.dtype) -> Tensor | None:
    # not in place: the graph may be kept and run backward again
    return None if gradient is None else torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))


def _sweep(plan: _Plan, factors: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """The values [terms]; adds the gradients of sum_i factors[i] * values[i] to hidden, weight, bias and parameters."""
    student, teacher, exact = plan.student, plan.teacher, plan.exact
    d_hidden, d_weight, d_bias, *d_parameters = gradients
    slopes = {id(p): d for p, d in zip(parameters, d_parameters) if d is not None}
    at_logits = any(d is not None for d in (d_hidden, d_weight, d_bias))
    rows, counts = plan.rows()
    block = Block(min(plan.block, len(rows)), student.vocabulary, exact, student.device)
    forms = [term.closed() if at_logits else None for term in plan.terms]
    mine = student.operands()
    theirs = teacher.operands() if isinstance(teacher, Lazy) else None
    values = factors.new_zeros(len(plan.terms))
    for start in range(0, len(rows), plan.block):
        index, count = rows[start : start + plan.block], counts[start : start + plan.block]
        place = torch.unravel_index(index, student.shape[:-1])
        block.start(len(index), None if plan.labels is None else plan.labels[place])
        hidden = student.hidden[place].to(student.dtype)
        block.project("student", hidden, *mine, student.post)
        if isinstance(teacher, Lazy) and theirs is not None:
            block.project("teacher", teacher.hidden[place].to(teacher.dtype), *theirs, teacher.post)
        elif isinstance(teacher, Tensor):
            block.teacher_logits.copy_(teacher[place])
        for number, (term, form) in enumerate(zip(plan.terms, forms)):
            coefficient = factors[number] * count
            if form is not None:
                found = form(block, coefficient)
            else:
                found = _by_autograd(term, block, teacher is not None, coefficient, at_logits, slopes, start == 0)
            values[number] += found.detach().to(exact) @ count
        gradient = block.finish()
        if gradient is None:
            continue
        student.post.chain_(gradient, block.logits)
        if d_hidden is not None:
            low = gradient if student.dtype == exact else block.low(mine[0].dtype).copy_(gradient)
            d_hidden[place] = (low @ mine[0]).to(exact)
        if d_weight is not None:
            d_weight[: student.vocabulary].addmm_(gradient.t(), hidden.to(exact))
        if d_bias is not None:
            d_bias[: student.vocabulary] += gradient.sum(0)
    return values


def _by_autograd(term: TokenTerm, block: Block, taught: bool, coefficient: Tensor, at_logits: bool,
                 slopes: dict[int, Tensor], check: bool) -> Tensor:  # fmt: skip
    """The values of a term; adds their gradient at the block's logits to the block, those of parameters to `slopes`."""
    with torch.set_grad_enabled(at_logits or bool(slopes)):
        leaf = block.logits.detach().requires_grad_(at_logits)
        values = term(leaf, block.teacher_logits if taught else None, block.labels)
        targets = [*([leaf] if at_logits else []), *(p for p in term.parameters if id(p) in slopes)]
        if values.requires_grad and check:
            term.check_parameters(values, leaf)
        if not values.requires_grad or not targets:
            return values
        found = torch.autograd.grad(values, targets, coefficient.to(values.dtype), allow_unused=True)
    for target, slope in zip(targets, found):
        if slope is None:
            continue
        if target is leaf:
            block.add_gradient(slope)
        else:
            slopes[id(target)] += slope
    return values
