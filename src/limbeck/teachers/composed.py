"""Roles composed from the logits of two teachers, by weights of their own for every token; lazy where both are.

- `Contrast`: AlignDistil's teacher, an aligned model moved further away from another one.
- `Advantages`: ADPA's, log p_aligned - log p_reference for every entry of the vocabulary.

A sum of two lazy logits is lazy again: hidden states side by side, times matrices side by side. The teachers' matrices are
held once more for it (and made anew only when they have changed), their logits never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.aligned import advantages, composed_logits, token_strength
from limbeck.functional.tokens import total_variation
from limbeck.signals.lazy import Lazy
from limbeck.signals.scores import token_values
from limbeck.signals.step import Ref, Step
from limbeck.teachers.live import Derived

if TYPE_CHECKING:
    from limbeck.tasks.base import Task


class Composed(Derived):
    """Logits a z + b z' + c of the roles `first` and `second`, detached. Subclasses say what a, b and c are.

    Whole logits are composed whole. A soft cap, which is not linear, is refused for lazy ones.
    """

    taps: tuple[str, ...] = ("logits",)

    def __init__(self, first: str, second: str):
        self.first, self.second = first, second
        self._matrix: tuple[list[Any], Tensor] | None = None

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        for tap in taps:
            if tap not in self.taps:
                raise SignalError(f"{type(self).__name__} gives {list(self.taps)}, not {tap!r}.")
        return [Ref(self.first, "logits"), Ref(self.second, "logits")]

    @torch.no_grad()
    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        pair = [step.signal(ref).detach() for ref in self.sources(taps)]
        if not all(isinstance(one, Lazy) for one in pair):
            pair = [one if isinstance(one, Tensor) else one.whole() for one in pair]
        size = min(one.shape[-1] for one in pair)
        if pair[0].shape[:-1] != pair[1].shape[:-1]:
            raise SignalError(
                f"The logits of {self.first!r} and {self.second!r} are for tokens of shape {list(pair[0].shape[:-1])} and "
                f"{list(pair[1].shape[:-1])}: they must read the same rows."
            )
        if isinstance(pair[0], Tensor):
            return self.whole(pair[0][..., :size], pair[1][..., :size], taps)
        return self.lazily(pair[0], pair[1], step.batch.extra.get("mask"), size)

    def whole(self, first: Tensor, second: Tensor, taps: Sequence[str]) -> dict[str, Any]:
        """The signals from whole logits [..., vocabulary]."""
        raise NotImplementedError(f"{type(self).__name__} does not say how whole logits are composed")

    def lazily(self, first: Lazy, second: Lazy, mask: Tensor | None, size: int) -> dict[str, Any]:
        """The signals from lazy logits; a mask [...] of the positions that count."""
        raise NotImplementedError(f"{type(self).__name__} does not say how lazy logits are composed")

    def compose(self, a: Tensor | float, first: Lazy, b: Tensor | float, second: Lazy, size: int,
                c: Tensor | None = None) -> Lazy:  # fmt: skip
        """a z + b z' + c, lazy; a, b, c [...] or numbers."""
        hidden: list[Tensor] = []
        matrix: list[Tensor | None] = []
        for factor, one in ((a, first), (b, second)):
            if one.post.softcap is not None:
                raise SignalError(
                    f"{type(self).__name__} adds logits, and those of a model here go through a soft cap of "
                    f"{one.post.softcap:g}, so that their sum is no matrix product. Take teachers without a cap, or whole "
                    "logits: task=CausalLM(lazy=False)."
                )
            factor = torch.as_tensor(factor, device=one.device) * one.post.scale
            hidden.append((factor[..., None] * one.hidden).to(one.hidden.dtype))
            matrix.append(one.weight)
            if one.bias is not None:
                hidden.append(factor.expand(one.shape[:-1])[..., None].to(one.hidden.dtype))
                matrix.append(one.bias)
        if c is not None:
            hidden.append(c[..., None].to(first.hidden.dtype))
            matrix.append(None)
        return Lazy(torch.cat(hidden, -1), self._side_by_side(matrix, size, first.weight), size=size)

    def _side_by_side(self, parts: list[Tensor | None], size: int, like: Tensor) -> Tensor:
        """Matrices and biases (None: ones) of `size` rows as one matrix; the last one again where nothing has changed."""
        key: list[Any] = [size, *((p.data_ptr(), p._version, p.dtype, p.device) for p in parts if p is not None)]
        if self._matrix is None or self._matrix[0][:-1] != key:
            columns = [
                like.new_ones(size, 1) if p is None else p[:size] if p.ndim == 2 else p[:size, None] for p in parts
            ]
            # the parts are kept, so that their memory cannot become another tensor's while the key stands
            self._matrix = [*key, parts], torch.cat(columns, 1)
        return self._matrix[1]


class Contrast(Composed):
    """z + w (z - z') of an aligned model z and a model z' that learned the preferences reversed (AlignDistil, 2025).

    With `contrast=False` z' + w (z - z'), z' the reference before alignment. `strength` is w for every token; without one
    w = beta2 sum_v |p_v - p'_v| + floor of each, as in `functional.token_strength`. Beside "logits" there is "strength"
    [batch, tokens].
    """

    taps = ("logits", "strength")

    def __init__(self, first: str = "aligned", second: str = "reverse", *, beta2: float = 15.0,
                 floor: float = 1e-3, strength: float | None = None, contrast: bool = True):  # fmt: skip
        super().__init__(first, second)
        if not beta2 > 0 or not floor > 0 or (strength is not None and not strength > 0):
            raise ArgumentError(f"beta2={beta2!r}, floor={floor!r}, strength={strength!r}: expected positive numbers.")
        self.beta2, self.floor, self.strength, self.contrast = beta2, floor, strength, contrast

    def whole(self, first: Tensor, second: Tensor, taps: Sequence[str]) -> dict[str, Any]:
        w = (
            self._constant(first)
            if self.strength is not None
            else token_strength(first, second, beta2=self.beta2, floor=self.floor)
        )
        return {"logits": composed_logits(first, second, w, contrast=self.contrast), "strength": w}

    def lazily(self, first: Lazy, second: Lazy, mask: Tensor | None, size: int) -> dict[str, Any]:
        if self.strength is not None:
            w = self._constant(first)
        else:
            w = 2 * self.beta2 * token_values(first, second, None, mask, total_variation) + self.floor
        a, b = (1 + w, -w) if self.contrast else (w, 1 - w)
        return {"logits": self.compose(a, first, b, second, size), "strength": w}

    def _constant(self, like: Lazy | Tensor) -> Tensor:
        assert self.strength is not None and like.dtype is not None
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.full(like.shape[:-1], self.strength, dtype=dtype, device=like.device)


class Advantages(Composed):
    """log p_aligned - log p_reference [batch, tokens, vocabulary] as "logits": ADPA's reward of every token (2025)."""

    def __init__(self, first: str = "aligned", second: str = "reference"):
        super().__init__(first, second)

    def whole(self, first: Tensor, second: Tensor, taps: Sequence[str]) -> dict[str, Any]:
        return {"logits": advantages(first, second)}

    def lazily(self, first: Lazy, second: Lazy, mask: Tensor | None, size: int) -> dict[str, Any]:
        c = token_values(first, second, None, mask, _log_masses)
        return {"logits": self.compose(1.0, first, -1.0, second, size, c)}


def _log_masses(first: Tensor, second: Tensor | None, labels: Tensor | None) -> Tensor:
    """logsumexp z' - logsumexp z: what makes z - z' the difference of log-probabilities."""
    assert second is not None
    return second.logsumexp(-1) - first.logsumexp(-1)


__all__ = ["Advantages", "Composed", "Contrast"]
