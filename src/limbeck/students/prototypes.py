"""A student that composes its maps from parts of another model's images (after ProC-KD, 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.students.declare import builder
from limbeck.students.heads import Headed, without


class Assign(nn.Module):
    """Maps [batch, channels, height, width] to logits of assignment to frozen prototypes [batch, prototypes, height, width]."""

    prototypes: Tensor

    def __init__(self, channels: int, prototypes: Tensor, temperature: float):
        super().__init__()
        self.project = nn.Conv2d(channels, prototypes.shape[1], 1)
        self.register_buffer("prototypes", prototypes)
        self.temperature = temperature

    def forward(self, maps: Tensor) -> Tensor:
        asked = F.normalize(self.project(maps), dim=1)
        return F.conv2d(asked, F.normalize(self.prototypes, dim=-1)[:, :, None, None]) / self.temperature


class Composed(Headed):
    """Maps of the body plus what an MLP makes of the prototypes that they attend to, pooled, and a fresh classifier.

    The body gives maps, or flattens them, of `shape`.
    """

    def __init__(self, body: nn.Module, channels: int, prototypes: Tensor, outputs: int, temperature: float,
                 shape: Sequence[int] | None = None):  # fmt: skip
        super().__init__(body)
        self.shape = None if shape is None else tuple(shape)
        self.assign = Assign(channels, prototypes, temperature)
        width = prototypes.shape[1]
        self.mlp = nn.Sequential(nn.Conv2d(width, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.fc = nn.Linear(channels, outputs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        maps = self.features(*args, **kwargs)
        if self.shape is not None:
            maps = maps.unflatten(1, self.shape)
        shares = self.assign(maps).softmax(1)
        parts = F.conv2d(shares, self.assign.prototypes.T[:, :, None, None])
        return self.fc((maps + self.mlp(parts)).mean((2, 3)))


@builder
def composed(student: dict[str, Any], without_layers: list[str], channels: int, prototypes: list[int], outputs: int,
             temperature: float, shape: list[int] | None = None) -> Composed:  # fmt: skip
    """A `Composed` with fresh weights and prototypes of zeros, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    body = without(build_from(student), without_layers)
    return Composed(body, channels, torch.zeros(*prototypes), outputs, temperature, shape)
