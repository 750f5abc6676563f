"""One pass over the tokens that count, a block of rows at a time: values of token divergences, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import UNLABELLED
from limbeck.signals.blocks import Block, TokenTerm
from limbeck.signals.sides import Logits, leaves, student_side, teacher_side

# bytes of each buffer of the rows that are compared at once: a few of them fit into a core's cache
CACHE = 1 << 19
# bytes of logits that a sweep holds at once, if the matrix is not larger (that much is held for its gradient anyway)
MEMORY = 1 << 27


@dataclass
class Sweep:
    """What is compared, at which tokens, and in what precision. `run` does it, as often as is wanted.

    `rows` [n]: indices of the tokens that count into the flattened leading axes; `counts` [n]: how much each counts;
    `graph`: whether gradients were wanted when it was made.
    """

    student: Logits
    teacher: Logits | None
    labels: Tensor | None
    terms: list[TokenTerm]
    size: int
    block: int
    rows: Tensor
    counts: Tensor
    exact: torch.dtype
    graph: bool

    @classmethod
    def of(cls, student: Logits, teacher: Logits | None, labels: Tensor | None, mask: Tensor | None,
           terms: list[TokenTerm], memory: int | None) -> Sweep:  # fmt: skip
        """Check what is given, cut both sides to the shared vocabulary, and find the tokens that count."""
        lead = list(student.shape[:-1])
        for name, shape in (("teacher's logits", None if teacher is None else teacher.shape[:-1]),
                            ("labels", None if labels is None else labels.shape),
                            ("mask", None if mask is None else mask.shape)):  # fmt: skip
            if shape is not None and list(shape) != lead:
                raise SignalError(f"The student's logits are for tokens of shape {lead}, the {name} for {list(shape)}.")
        if mask is not None and mask.requires_grad:
            raise SignalError("A mask weighs tokens and gets no gradient. Multiply what token_values() gives by it.")
        for term in terms:
            term.check(teacher is not None, labels is not None)
        size = student.shape[-1] if teacher is None else min(student.shape[-1], teacher.shape[-1])
        exact = torch.float64 if student.dtype == torch.float64 else torch.float32
        rows, counts = _rows(student, labels, mask, terms, size)
        block = _block(student, teacher, size, exact, memory)
        return cls(student, teacher, labels, terms, size, block, rows, counts.to(exact), exact, torch.is_grad_enabled())

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
        rows = min(self.block, len(self.rows))
        few = _few(self.size, self.exact, rows, self.rows.device)
        student = student_side(self.student, self.size, rows, few, self.exact)
        teacher = None if self.teacher is None else teacher_side(self.teacher, self.size, rows, few, self.exact)
        forms = [term.closed() if at_logits else None for term in self.terms]
        overwrite = all(form is not None for form in forms) and not student.keeps
        block = Block(few, self.size, self.exact, self.rows.device, overwrite)
        found: list[list[Tensor]] = [[] for _ in self.terms]
        for rows_, factors in zip(self.rows.split(self.block), coefficients.split(self.block, 1)):
            place = torch.unravel_index(rows_, self.student.shape[:-1])
            labels = None if self.labels is None else self.labels[place].split(few)
            student.load(place)
            if teacher is not None:
                teacher.load(place)
            for number, factor in enumerate(factors.split(few, 1)):
                theirs = None if teacher is None else teacher.read(number)
                block.start(student.read(number), theirs, None if labels is None else labels[number])
                for term, form, coefficient, values in zip(self.terms, forms, factor.unbind(), found):
                    if form is not None:
                        values.append(form(block, coefficient))
                    else:
                        check = self.graph and not values
                        values.append(_by_autograd(term, block, coefficient, at_logits, slopes, check))
                if at_logits:
                    student.put(number, block.finish(), d_hidden)
            if at_logits:
                student.add(d_hidden, d_weight, d_bias)
        return torch.stack([torch.cat(values).to(self.exact) for values in found]) if rows else coefficients


def _block(student: Logits, teacher: Logits | None, size: int, exact: torch.dtype, memory: int | None) -> int:
    """How many rows of logits [rows, size], of both sides where both are lazy, go into the memory; one at least."""
    matrices = [leaves(side)[1] for side in (student, teacher) if side is not None]
    if memory is None:
        memory = max(MEMORY, 0 if matrices[0] is None else matrices[0].numel() * exact.itemsize)
    if memory < 1:
        raise SignalError(f"memory={memory}: expected the bytes that a block of logits may take; 128 MiB are fast.")
    return max(1, memory // (max(1, sum(one is not None for one in matrices)) * size * exact.itemsize))


def _few(size: int, exact: torch.dtype, rows: int, device: torch.device) -> int:
    """How many of a block's rows are compared at once.

    One thread of a CPU takes as many as its cache holds. Several threads wait for each other after every pass over them: on a
    busy machine they wait for longer than passes over so few take, so that they share a quarter of the block.
    """
    if device.type != "cpu":
        return max(1, rows)
    cached = max(1, CACHE // (size * exact.itemsize))
    return max(1, min(rows, cached if torch.get_num_threads() == 1 else max(cached, rows // 4)))


def _rows(student: Logits, labels: Tensor | None, mask: Tensor | None, terms: Sequence[TokenTerm],
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


def _by_autograd(term: TokenTerm, block: Block, coefficient: Tensor, at_logits: bool, slopes: dict[int, Tensor],
                 check: bool) -> Tensor:  # fmt: skip
    """The values of a term; adds their gradient at the block's logits to the block, those of parameters to `slopes`."""
    with torch.set_grad_enabled(at_logits or bool(slopes) or check):
        leaf = block.logits.detach().requires_grad_(at_logits)
        teacher = block.kept if term.sparse and block.kept is not None else block.teacher_logits
        values = term(leaf, teacher, block.labels)
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
