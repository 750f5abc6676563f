"""Cutting the channels of convolutional nets with shortcuts, which only move together: through torch-pruning."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError


def prune_channels(teacher: nn.Module, width: int | float, example: Tensor | None) -> nn.Module:
    """A copy whose convolutions have `width` of their channels, the least important groups gone (by weight norm).

    `example`: a batch of inputs [1, channels, height, width], from which the couplings are traced. The outputs stay.
    Raises ModelError where the net cannot be traced; needs the extra `prune`.
    """
    if isinstance(width, bool) or not isinstance(width, float) or not 0 < width <= 1:
        raise ArgumentError(f"width={width!r}: channels that move together are cut by a fraction, such as width=0.5.")
    if example is None:
        raise ArgumentError("Cutting channels traces the net: give example=images [1, channels, height, width].")
    pruning = need("torch_pruning", "prune")
    student = copy.deepcopy(teacher).eval()
    example = example.to(next(student.parameters()).device)
    with torch.no_grad():
        outputs = _logits(student(example))
    heads = [layer for layer in student.modules() if isinstance(layer, nn.Linear) and layer.out_features == outputs]
    before = {name: layer.out_channels for name, layer in _convolutions(student).items()}
    wanted = [parameter.requires_grad for parameter in student.parameters()]
    student.requires_grad_(True)  # the couplings are read off the autograd graph
    try:
        pruning.BasePruner(student, example, pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=1 - width,
                           ignored_layers=heads).step()  # fmt: skip
        with torch.no_grad():
            after = _logits(student(example))
    except (RuntimeError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ModelError(f"{type(teacher).__name__} could not be pruned: {error}") from error
    if after != outputs:
        raise ModelError(f"Pruning {type(teacher).__name__} would change its outputs from {outputs} to {after}.")
    for parameter, flag in zip(student.parameters(), wanted):
        parameter.requires_grad_(flag)
    student.zero_grad(set_to_none=True)
    student.limbeck_shrink = {  # type: ignore[assignment]
        "channels": {name: layer.out_channels for name, layer in _convolutions(student).items()},
        "of": before,
    }
    return student.train(teacher.training)


def _convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}


def _logits(output: object) -> int:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError("Only nets that give logits [batch, classes] can be pruned.")
    return logits.shape[1]
