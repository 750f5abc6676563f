"""The two sides of a comparison, read a few rows at a time: lazy logits, projected block by block, or whole ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from limbeck.signals.store_encode import TopK

if TYPE_CHECKING:
    from limbeck.signals.lazy import Lazy

Logits: TypeAlias = "Lazy | TopK | Tensor"
Place = tuple[Tensor, ...]  # where some tokens are in the leading axes: indices [rows] for each axis


def leaves(logits: Logits) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What logits are made of: hidden states, matrix and bias; whole or stored ones stand in the place of hidden states."""
    if isinstance(logits, TopK):
        return logits.values, None, None
    return (logits, None, None) if isinstance(logits, Tensor) else (logits.hidden, logits.weight, logits.bias)


def student_side(logits: Logits, size: int, rows: int, part: int, exact: torch.dtype) -> Whole | Projected:
    """What reads these logits: their first `size` of a row, in the dtype `exact`; blocks of `rows`, `part` at a time."""
    logits = logits.detach()
    if isinstance(logits, Tensor | TopK):
        return Whole(logits, size, part, exact)
    return Projected(replace(logits, size=size), rows, part, exact)


def teacher_side(logits: Logits, size: int, rows: int, part: int,
                 exact: torch.dtype) -> Whole | Stored | Projected:  # fmt: skip
    """The same for a teacher: what was stored of one is handed on as it is, if all of its vocabulary is compared."""
    if isinstance(logits, TopK) and size == logits.size:
        return Stored(logits, part)
    return student_side(logits, size, rows, part, exact)


class Whole:
    """Logits that are there, or stored."""

    keeps = False

    def __init__(self, logits: Tensor | TopK, size: int, part: int, exact: torch.dtype):
        self.logits, self.size, self.part, self.exact = logits, size, part, exact

    def load(self, place: Place) -> None:
        """Go to the tokens of a block."""
        self.places = list(zip(*(index.split(self.part) for index in place)))

    def read(self, number: int) -> Tensor:
        """The logits [rows, size] of a part of the block; what is read may be overwritten."""
        found = self.logits[self.places[number]]
        return (found if isinstance(found, Tensor) else found.dense())[:, : self.size].to(self.exact)

    def put(self, number: int, gradient: Tensor | None, d_logits: Tensor | None) -> None:
        """Take the gradient at those of a part."""
        if gradient is not None and d_logits is not None:
            d_logits[..., : self.size][self.places[number]] = gradient

    def add(self, d_logits: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None) -> None:
        """Nothing is left to do for a block."""


class Stored:
    """What a store kept of a teacher: never with a gradient, never whole."""

    def __init__(self, kept: TopK, part: int):
        self.kept, self.part = kept, part

    def load(self, place: Place) -> None:
        found, part = self.kept[place], self.part
        self.parts = list(zip(found.values.split(part), found.ids.split(part), found.log_tail.split(part)))

    def read(self, number: int) -> TopK:
        values, ids, log_tail = self.parts[number]
        return TopK(values, ids, log_tail, self.kept.size)


class Projected:
    """Lazy logits: a block of rows is projected at once, in the dtype of the product, and read in parts.

    The gradient of a part takes the place of its logits, so that a block needs its logits' memory and no more; where the
    product is in half precision, that of the gradient in float32 too.
    """

    def __init__(self, lazy: Lazy, rows: int, part: int, exact: torch.dtype):
        self.lazy, self.part, self.exact = lazy, part, exact
        self.weight, self.bias = lazy.operands()
        self.product = torch.empty(rows, lazy.vocabulary, dtype=lazy.dtype, device=lazy.device)
        self.keeps = lazy.post.softcap is not None  # needs its logits again for the gradient
        self.gradient = self.product  # of the block, in `exact`
        self.converted = None if lazy.dtype == exact else self.product.new_empty(part, lazy.vocabulary, dtype=exact)

    def load(self, place: Place) -> None:
        self.place, rows = place, len(place[0])
        self.hidden = self.lazy.hidden[place].to(self.lazy.dtype)
        self.parts = torch.mm(self.hidden, self.weight.t(), out=self.product[:rows]).split(self.part)

    def read(self, number: int) -> Tensor:
        logits = self.parts[number]
        if self.converted is not None:
            logits = self.converted[: len(logits)].copy_(logits)
        if self.bias is not None:
            logits.add_(self.bias)
        self.logits = self.lazy.post.apply_(logits)
        return self.logits

    def put(self, number: int, gradient: Tensor | None, _: Tensor | None) -> None:
        if gradient is None:
            gradient = torch.zeros_like(self.logits)
        gradient = self.lazy.post.chain_(gradient, self.logits)
        part = self.parts[number]
        if gradient.data_ptr() != part.data_ptr():
            part.copy_(gradient)
        if self.converted is not None:
            if self.gradient is self.product:
                self.gradient = torch.empty_like(self.product, dtype=self.exact)
            start = number * self.part
            self.gradient[start : start + len(gradient)] = gradient

    def add(self, d_hidden: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None) -> None:
        """Add the gradient of a block to those of hidden states, matrix and bias."""
        rows, size = len(self.hidden), self.lazy.vocabulary
        if d_hidden is not None:
            d_hidden[self.place] = (self.product[:rows] @ self.weight).to(self.exact)
        if d_weight is not None:
            d_weight[:size].addmm_(self.gradient[:rows].t(), self.hidden.to(self.exact))
        if d_bias is not None:
            d_bias[:size] += self.gradient[:rows].sum(0)
