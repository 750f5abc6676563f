"""Learnable maps from a student's signal to the shape of a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError, nearest
from limbeck.objectives.exits import exit_head
from limbeck.objectives.factors import translator

Shape = Sequence[int]


class Align(nn.Module):
    """1x1 convolution to the teacher's channels; maps are average-pooled or interpolated to the teacher's size."""

    def __init__(self, channels: int, outputs: int, size: Shape):
        super().__init__()
        self.size = tuple(size)
        self.conv = nn.Conv2d(channels, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            larger = x.shape[2] > self.size[0]
            x = (
                F.adaptive_avg_pool2d(x, (self.size[0], self.size[1]))
                if larger
                else F.interpolate(x, self.size, mode="bilinear")
            )
        return self.conv(x)


def _linear(student: Shape, teacher: Shape, bias: bool = True) -> nn.Module:
    if len(student) != len(teacher):
        raise SignalError(
            f"The student's signal {list(student)} and the teacher's {list(teacher)} are of different kinds (vectors, tokens "
            "or maps), and no projector leads from one to the other. Tap layers of one kind, or compare relations (rkd, cka)."
        )
    if len(student) not in (2, 3):
        raise SignalError(
            f"A linear projector maps [batch, width] or [batch, tokens, width]; the student's signal is {list(student)}. For "
            "maps [batch, channels, height, width] use projected('conv')."
        )
    return nn.Linear(student[-1], teacher[-1], bias=bias)


def _maps(student: Shape, teacher: Shape, kind: str) -> None:
    if len(student) != 4 or len(teacher) != 4:
        raise SignalError(
            f"The {kind} projector maps [batch, channels, height, width]; the student's signal is {list(student)}, the "
            f"teacher's {list(teacher)}. For vectors and tokens use projected('linear')."
        )


def _predictor(student: Shape, teacher: Shape) -> nn.Module:
    """Two linear layers with a GELU between, as wide inside as the teacher's signal: for vectors and tokens."""
    return nn.Sequential(_linear(student, teacher), nn.GELU(), nn.Linear(teacher[-1], teacher[-1]))


def _conv(student: Shape, teacher: Shape) -> nn.Module:
    _maps(student, teacher, "conv")
    return Align(student[1], teacher[1], teacher[2:])


def _regressor(student: Shape, teacher: Shape) -> nn.Module:
    """FitNets' regressor (Romero et al. 2015): convolution, batch norm, ReLU; linear for vectors and tokens."""
    if len(student) != 4 or len(teacher) != 4:
        return _linear(student, teacher)
    _maps(student, teacher, "regressor")
    (c, h), (outputs, size) = (student[1], student[2]), (teacher[1], teacher[2])
    if h == 2 * size:
        conv: nn.Module = nn.Conv2d(c, outputs, 3, stride=2, padding=1)
    elif 2 * h == size:
        conv = nn.ConvTranspose2d(c, outputs, 4, stride=2, padding=1)
    elif h >= size:
        conv = nn.Conv2d(c, outputs, (1 + h - size, 1 + student[3] - teacher[3]))
    else:
        raise SignalError(
            f"The regressor maps equal, doubled or larger student maps; the student's is {list(student)}, the teacher's "
            f"{list(teacher)}. Use projected('conv'), which resizes."
        )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _connector(student: Shape, teacher: Shape) -> nn.Module:
    """What `auto` gives, without bias, and a batch normalisation: for values before an activation."""
    if len(student) == len(teacher) == 4:
        return nn.Sequential(_conv(student, teacher), nn.BatchNorm2d(teacher[1]))
    _linear(student, teacher)  # says what does not fit
    if len(student) != 2:
        raise SignalError(f"The connector maps maps and vectors; the student's signal is {list(student)}.")
    return nn.Sequential(nn.Linear(student[1], teacher[1], bias=False), nn.BatchNorm1d(teacher[1]))


class Generation(nn.Module):
    """The teacher's map out of a part of the student's: whole channels, or positions, are left out by chance, not rescaled."""

    def __init__(self, align: nn.Module, channels: int, ratio: float, positions: bool):
        super().__init__()
        self.align, self.ratio, self.positions = align, ratio, positions
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def drawn(self, x: Tensor) -> Tensor:
        """A number from 0 to 1 for each channel of each sample, [batch, channels, 1, 1], or for each position."""
        shape = (len(x), 1, *x.shape[2:]) if self.positions else (*x.shape[:2], 1, 1)
        return torch.rand(shape, device=x.device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.align(x)
        return self.generation(x * (self.drawn(x) >= self.ratio))


def _needed(student: Shape, teacher: Shape) -> nn.Module:
    """What `auto` gives where shapes differ, and nothing where they do not."""
    return nn.Identity() if tuple(student[1:]) == tuple(teacher[1:]) else _auto(student, teacher)


def _generator(student: Shape, teacher: Shape, ratio: float = 0.15, positions: bool = False) -> nn.Module:
    """Masked generative distillation's block (Yang et al., 2022): `ratio` of the channels, or positions, are left out."""
    _maps(student, teacher, "generator")
    if not 0 <= ratio < 1:
        raise ArgumentError(f"ratio={ratio!r}: expected from 0 to below 1.")
    return Generation(_needed(student, teacher), teacher[1], ratio, positions)


def _auto(student: Shape, teacher: Shape) -> nn.Module:
    return _conv(student, teacher) if len(student) == len(teacher) == 4 else _linear(student, teacher)


KINDS = {"auto": _auto, "linear": _linear, "conv": _conv, "regressor": _regressor, "connector": _connector, "exit": exit_head,
         "translator": translator, "needed": _needed, "generator": _generator,
         "predictor": _predictor}  # fmt: skip


def projector(kind: str, student: Shape, teacher: Shape, seed: int = 0, **options: Any) -> nn.Module:
    """A projector of a kind from the student's shape to the teacher's, its weights drawn from `seed`."""
    if kind not in KINDS:
        raise ArgumentError(f"There is no projector {kind!r}.{nearest(kind, KINDS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind](student, teacher, **options)
