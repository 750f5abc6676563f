"""One pass over the tokens that count, a block of rows at a time: values of token divergences, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import UNLABELLED
from limbeck.signals.blocks import Block, TokenTerm

if TYPE_CHECKING:
    from limbeck.signals.lazy import Lazy


def leaves(student: Lazy | Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What logits are made of: hidden states, matrix and bias; whole ones stand in the place of hidden states."""
    return (student, None, None) if isinstance(student, Tensor) else (student.hidden, student.weight, student.bias)


@dataclass
class Sweep:
    """What is compared, at which tokens, and in what precision. `run` does it, as often as is wanted.

    `rows` [n]: indices of the tokens that count into the flattened leading axes; `counts` [n]: how much each counts;
    `graph`: whether gradients were wanted when it was made.
    """

    student: Lazy | Tensor
    teacher: Lazy | Tensor | None
    labels: Tensor | None
    terms: list[TokenTerm]
    block: int
    rows: Tensor
    counts: Tensor
    exact: torch.dtype
    graph: bool

    @classmethod
    def of(cls, student: Lazy | Tensor, teacher: Lazy | Tensor | None, labels: Tensor | None, mask: Tensor | None,
           terms: list[TokenTerm], block: int) -> Sweep:  # fmt: skip
        """Check what is given, cut both sides to the shared vocabulary, and find the tokens that count."""
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
        size = student.shape[-1] if teacher is None else min(student.shape[-1], teacher.shape[-1])
        exact = torch.float64 if student.dtype == torch.float64 else torch.float32
        rows, counts = _rows(student, labels, mask, terms, size)
        return cls(_cut(student, size), None if teacher is None else _cut(teacher, size), labels, terms, block, rows,
                   counts.to(exact), exact, torch.is_grad_enabled())  # fmt: skip

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained in the terms."""
        return list({id(p): p for term in self.terms for p in term.parameters}.values())

    def zeros(self, trained: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
        """Where `run` adds gradients: zeros for each tensor that wants one."""
        return [
            torch.zeros_like(t, dtype=self.exact) if want and t is not None else None
            for t, want in zip(trained, wanted)
        ]

    def run(self, coefficients: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        """The values [terms, n] of the terms at the rows.

        Adds the gradients of sum(coefficients * values), coefficients [terms, n], to those of `leaves(student)` and
        `parameters` in `gradients`, where there is a tensor.
        """
        with torch.no_grad(), torch.autocast(self.rows.device.type, enabled=False):
            return self._run(coefficients, gradients)

    def _run(self, coefficients: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        d_hidden, d_weight, d_bias, *d_parameters = gradients
        slopes = {id(p): d for p, d in zip(self.parameters, d_parameters) if d is not None}
        at_logits = any(d is not None for d in (d_hidden, d_weight, d_bias))
        size = self.student.shape[-1]
        block = Block(min(self.block, len(self.rows)), size, self.exact, self.rows.device)
        student, teacher = (
            Side("student", self.student),
            None if self.teacher is None else Side("teacher", self.teacher),
        )
        forms = [term.closed() if at_logits else None for term in self.terms]
        values = torch.empty_like(coefficients)
        for start in range(0, len(self.rows), self.block):
            part = slice(start, start + self.block)
            place = torch.unravel_index(self.rows[part], self.student.shape[:-1])
            block.start(len(place[0]), None if self.labels is None else self.labels[place])
            student.read(block, place)
            if teacher is not None:
                teacher.read(block, place)
            for number, (term, form) in enumerate(zip(self.terms, forms)):
                coefficient = coefficients[number, part]
                if form is not None:
                    values[number, part] = form(block, coefficient)
                    continue
                check = start == 0 and self.graph
                values[number, part] = _by_autograd(
                    term, block, teacher is not None, coefficient, at_logits, slopes, check
                )
            student.add(block, place, d_hidden, d_weight, d_bias)
        return values


class Side:
    """The logits of one side, read into a block's buffer; and the way back of their gradient."""

    def __init__(self, name: str, logits: Lazy | Tensor):
        self.name, self.logits = name, logits
        self.operands = None if isinstance(logits, Tensor) else logits.operands()

    def read(self, block: Block, place: tuple[Tensor, ...]) -> None:
        """Put the logits of these tokens into the block."""
        if isinstance(self.logits, Tensor):
            block.buffer(self.name).copy_(self.logits[place])
            return
        assert self.operands is not None
        self.hidden = self.logits.hidden[place].to(self.logits.dtype)
        block.project(self.name, self.hidden, *self.operands, self.logits.post)

    def add(self, block: Block, place: tuple[Tensor, ...], d_hidden: Tensor | None, d_weight: Tensor | None,
            d_bias: Tensor | None) -> None:  # fmt: skip
        """Add the gradient that the block holds to those of hidden states (or whole logits), matrix and bias."""
        gradient = block.finish()
        if gradient is None:
            return
        size = gradient.shape[-1]
        if isinstance(self.logits, Tensor):
            if d_hidden is not None:
                d_hidden[..., :size][place] = gradient
            return
        assert self.operands is not None
        self.logits.post.chain_(gradient, block.logits)
        weight = self.operands[0]
        if d_hidden is not None:
            low = gradient if weight.dtype == gradient.dtype else block.low(weight.dtype).copy_(gradient)
            d_hidden[place] = (low @ weight).to(d_hidden.dtype)
        if d_weight is not None:
            d_weight[:size].addmm_(gradient.t(), self.hidden.to(gradient.dtype))
        if d_bias is not None:
            d_bias[:size] += gradient.sum(0)


def _cut(logits: Lazy | Tensor, size: int) -> Lazy | Tensor:
    logits = logits.detach()
    return logits[..., :size] if isinstance(logits, Tensor) else replace(logits, size=size)


def _rows(student: Lazy | Tensor, labels: Tensor | None, mask: Tensor | None, terms: Sequence[TokenTerm],
          size: int) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Indices [n] of the tokens that count, and how much each counts [n]."""
    mask = None if mask is None else mask.reshape(-1)
    if labels is not None and all(term.labelled for term in terms):
        known = labels.reshape(-1) != UNLABELLED
        mask = known if mask is None else known * mask
    if mask is None:
        mask = torch.ones(student.shape[:-1].numel(), dtype=torch.bool, device=student.device)
    rows = mask.detach().nonzero()[:, 0]
    named = labels is not None and any(term.declaration and term.declaration.labels for term in terms)
    if labels is not None and named and (labels.reshape(-1)[rows] >= size).any():
        raise SignalError(f"A label lies outside the shared vocabulary of {size}: mark it {UNLABELLED}.")
    return rows, mask.detach()[rows]


def _by_autograd(term: TokenTerm, block: Block, taught: bool, coefficient: Tensor, at_logits: bool,
                 slopes: dict[int, Tensor], check: bool) -> Tensor:  # fmt: skip
    """The values of a term; adds their gradient at the block's logits to the block, those of parameters to `slopes`."""
    with torch.set_grad_enabled(at_logits or bool(slopes) or check):
        leaf = block.logits.detach().requires_grad_(at_logits)
        values = term(leaf, block.teacher_logits if taught else None, block.labels)
        targets = [*([leaf] if at_logits else []), *(p for p in term.parameters if id(p) in slopes)]
        if values.requires_grad and check:
            term.check_parameters(values, leaf)
        if not values.requires_grad or not targets:
            return values.detach()
        found = torch.autograd.grad(values, targets, coefficient.to(values.dtype), allow_unused=True)
    for target, slope in zip(targets, found):
        if slope is None:
            continue
        if target is leaf:
            block.add_gradient(slope)
        else:
            slopes[id(target)] += slope
    return values.detach()


# what a function with gradients of its own shares with another
def unit_of(factors: Tensor) -> Tensor:
    """Their largest size, 1 where all are 0: gradients kept in this unit are those of one token, which float16 can hold."""
    unit = factors.abs().amax() if factors.numel() else factors.new_ones(())
    return unit.where(unit > 0, 1.0)


def scaled(gradient: Tensor | None, factor: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    # not in place: the graph may be kept and run backward again
    return None if gradient is None else torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))


@contextmanager
def ordinary_autograd(name: str) -> Iterator[None]:
    """Say what to do instead where a torch.func transform meets a function with gradients of its own."""
    try:
        yield
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise SignalError(
            f"{name} finds its gradients by itself, so it cannot run under torch.func (grad, vmap, jacrev, ...). Compare "
            "`lazy.whole()` there, or use backward()."
        ) from error


def refuse_second_order(name: str) -> None:
    if torch.is_grad_enabled():
        raise SignalError(
            f"The gradients of {name} are constants and cannot be differentiated again, as create_graph=True asks. "
            "Compare `lazy.whole()` there."
        )
