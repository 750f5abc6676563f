"""Knowledge review: the student's stages, fused from the last to the first, meet the teacher's (ReviewKD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.features import hierarchical_context_mse
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Fusion(nn.Module):
    """One stage, and what came from the stages after it: maps of the teacher's channels, and what the next block is given."""

    def __init__(self, inputs: int, width: int, outputs: int, first: bool):
        super().__init__()
        self.into = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))
        self.attention = None if first else nn.Conv2d(2 * width, 2, 1)
        self.out = nn.Sequential(nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, stage: Tensor, rest: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        x = self.into(stage)
        if self.attention is not None:
            assert rest is not None
            rest = F.interpolate(rest, x.shape[2:], mode="nearest")
            own, other = self.attention(torch.cat([x, rest], 1)).sigmoid().split(1, dim=1)
            x = own * x + other * rest
        if tuple(x.shape[2:]) != tuple(size):
            x = F.interpolate(x, (size[0], size[1]), mode="nearest")
        return self.out(x), x


class Review(Term):
    """See `review`."""

    def __init__(self, student: Sequence[str], teacher: Sequence[str], width: int):
        super().__init__("review")
        if not student or len(student) != len(teacher):
            raise ArgumentError(
                f"review: {len(student)} taps of the student and {len(teacher)} of the teacher; give as many."
            )
        self.pairs = [(Ref.parse(ours, "self"), Ref.parse(theirs, "teacher"))
                      for ours, theirs in zip(student, teacher, strict=True)]  # fmt: skip
        self.width = width
        self.blocks = nn.ModuleList()

    def needs(self) -> list[Ref]:
        return [ref for pair in self.pairs for ref in pair]

    @property
    def is_built(self) -> bool:
        return bool(self.blocks)

    def make(self, step: Step, seed: int) -> None:
        if self.blocks:
            return
        stages = [(self._maps(step, ours), self._maps(step, theirs)) for ours, theirs in self.pairs]
        width = min(self.width, stages[-1][0].shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number, (ours, theirs) in enumerate(reversed(stages)):
                self.blocks.append(Fusion(ours.shape[1], width, theirs.shape[1], first=number == 0))
        self.blocks.to(stages[0][0].device, stages[0][0].dtype)

    def _maps(self, step: Step, ref: Ref) -> Tensor:
        """A signal as maps; a vector is one of size 1x1."""
        value = upcast(step.signal(ref))
        if value.ndim not in (2, 4):
            raise SignalError(
                f"{self.name!r} fuses maps [batch, channels, height, width] and vectors; {str(ref)!r} is {list(value.shape)}. "
                "Use a recipe for tokens, such as ofa_kd."
            )
        return value if value.ndim == 4 else value[:, :, None, None]

    def values(self, step: Step) -> Tensor:
        found: list[Tensor] = []
        rest = None
        for block, (ours, theirs) in zip(self.blocks, reversed(self.pairs), strict=True):
            target = self._maps(step, theirs).detach()
            fused, rest = block(self._maps(step, ours), rest, target.shape[2:])
            found.append(hierarchical_context_mse(fused, target, reduction="none"))
        return torch.stack(found).sum(0)

    def __str__(self) -> str:
        return f"review({', '.join(f'{ours.tap} > {theirs.tap}' for ours, theirs in self.pairs)})"


def review(*, student: Sequence[str], teacher: Sequence[str], width: int = 512) -> Review:
    """Sum over stages of the hierarchical context MSE between fused student stages and the teacher's. Values [batch].

    `student`, `teacher`: taps of maps [batch, channels, height, width] (vectors [batch, width] are maps of 1x1), from shallow
    to deep, in pairs. From the last to the first, each student stage is brought to min(`width`, the deepest one's channels),
    mixed with what came from the stages after it by two learned maps from 0 to 1, and compared with the teacher's stage behind
    a 3x3 convolution (ReviewKD, Chen et al., 2021). Additive over samples, but for the batch normalisation in its blocks. What
    learns belongs to the objective.
    """
    return Review(student, teacher, width)
