"""Students that end in their teacher's classifier, behind maps (SimKD, Chen et al., 2022) or vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.students.declare import builder
from limbeck.students.heads import Headed, without


class ReusedClassifier(Headed):
    """Body, projector and the teacher's classifier, which is frozen: SimKD's student (Chen et al., 2022).

    The body gives maps [batch, channels, height, width]; `side` is the size to which larger ones are pooled first, `shape` that
    of maps which the body flattens.
    """

    def __init__(self, body: nn.Module, channels: int, classifier: nn.Linear, factor: int, side: Sequence[int],
                 shape: Sequence[int] | None = None):  # fmt: skip
        super().__init__(body)
        self.side, self.shape = (side[0], side[1]), None if shape is None else tuple(shape)
        self.projector = bottleneck(channels, classifier.in_features, factor)
        self.classifier = classifier.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        maps = self.features(*args, **kwargs)
        if self.shape is not None:
            maps = maps.unflatten(1, self.shape)
        if tuple(maps.shape[2:]) != self.side:
            maps = F.adaptive_avg_pool2d(maps, self.side)
        return self.classifier(self.projector(maps).mean((2, 3)))


def bottleneck(inputs: int, outputs: int, factor: int = 2) -> nn.Sequential:
    """SimKD's projector of maps: 1x1, 3x3, 1x1 convolutions, each with BN and ReLU, `outputs` / `factor` channels between."""
    inner = max(1, outputs // factor)
    layers: list[nn.Module] = []
    for before, behind, size in ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)):
        layers += [nn.Conv2d(before, behind, size, padding=size // 2, bias=False), nn.BatchNorm2d(behind), nn.ReLU()]
    return nn.Sequential(*layers)


@builder
def reused_classifier(student: dict[str, Any], without_layers: list[str], channels: int, width: int, outputs: int, bias: bool,
                      factor: int, side: list[int], shape: list[int] | None = None) -> ReusedClassifier:  # fmt: skip
    """A `ReusedClassifier` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    body = without(build_from(student), without_layers)
    return ReusedClassifier(body, channels, nn.Linear(width, outputs, bias=bias), factor, side, shape)


class SharedClassifier(Headed):
    """Body, a linear projector of its vectors, and the teacher's classifier, which is frozen."""

    def __init__(self, body: nn.Module, width: int, classifier: nn.Linear):
        super().__init__(body)
        self.projector = nn.Linear(width, classifier.in_features)
        self.classifier = classifier.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.classifier(self.projector(self.features(*args, **kwargs)))


@builder
def shared_classifier(student: dict[str, Any], without_layers: list[str], width: int, inner: int, outputs: int,
                      bias: bool) -> SharedClassifier:  # fmt: skip
    """A `SharedClassifier` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    return SharedClassifier(without(build_from(student), without_layers), width, nn.Linear(inner, outputs, bias=bias))
