"""Students with other heads than they came with. What is saved of them is whole: the folder loads back as it was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.functional.heads import mixed_heads
from limbeck.functional.subclasses import summed_subclasses
from limbeck.students.declare import builder

CARRIED = ("tokenizer", "processor", "pretrained_cfg", "limbeck_pretrained")  # how a task prepares inputs for a module


class Headed(nn.Module):
    """A model without what came last, `body`, with something else on it. Subclasses define `forward`."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        carry(body, self)

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the body gives now that its classifier is gone."""
        return unwrapped(self.body(*args, **kwargs))


def unwrapped(output: Any) -> Tensor:
    """The tensor of a model's output: itself, its logits, or its first element."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple) else output


def carry(module: nn.Module, to: nn.Module) -> None:
    """Give a module around another what a task asks of it to prepare its inputs."""
    for name in CARRIED:
        if name in vars(module):
            setattr(to, name, vars(module)[name])


def without(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of a module in which the named submodules pass on what they are given."""
    body = copy.deepcopy(module)
    body.__dict__.pop("limbeck_spec", None)  # it no longer says how to build this
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(body.get_submodule(parent), last, nn.Identity())
    return body


class DualHead(Headed):
    """Two linear heads on one body: `hard` learns labels, `soft` follows a teacher. Forward gives their mixture's logits.

    `mixture` is [share of the hard head, temperature of the soft one], saved with the weights (DHO, 2025).
    """

    mixture: Tensor

    def __init__(self, body: nn.Module, width: int, outputs: int):
        super().__init__(body)
        self.hard, self.soft = nn.Linear(width, outputs), nn.Linear(width, outputs)
        self.register_buffer("mixture", torch.tensor([0.5, 1.0]))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        features = self.features(*args, **kwargs)
        return mixed_heads(self.hard(features), self.soft(features), self.mixture[0], self.mixture[1])


@builder
def dual_head(student: dict[str, Any], without_layers: list[str], width: int, outputs: int) -> DualHead:
    """A `DualHead` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    return DualHead(without(build_from(student), without_layers), width, outputs)


class SubclassHead(Headed):
    """A head of `count` subclasses to a class, `subclasses`; forward gives logits of the classes, each the sum of its own."""

    def __init__(self, body: nn.Module, width: int, outputs: int, count: int):
        super().__init__(body)
        self.count = count
        self.subclasses = nn.Linear(width, outputs * count)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return summed_subclasses(self.subclasses(self.features(*args, **kwargs)), self.count)


@builder
def subclass_head(
    student: dict[str, Any], without_layers: list[str], width: int, outputs: int, count: int
) -> SubclassHead:
    """A `SubclassHead` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    return SubclassHead(without(build_from(student), without_layers), width, outputs, count)


class Deepened(Headed):
    """A hidden layer, `first`, between body and a fresh classifier: the part of a projection head that fine-tuning keeps."""

    def __init__(self, body: nn.Module, width: int, outputs: int):
        super().__init__(body)
        self.first = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.fc = nn.Linear(width, outputs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.fc(self.first(self.features(*args, **kwargs)))


@builder
def deepened(student: dict[str, Any], without_layers: list[str], width: int, outputs: int) -> Deepened:
    """A `Deepened` with fresh weights, around a student that is built by its own builder."""
    from limbeck.students.save import build_from

    return Deepened(without(build_from(student), without_layers), width, outputs)
