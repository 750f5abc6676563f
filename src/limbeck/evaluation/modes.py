"""Eval mode for a while, put back exactly, child by child (a frozen batch norm may be in eval inside a training model)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(module: object) -> Iterator[None]:
    """Eval mode for every child."""
    training = [child for child in module.modules() if child.training] if isinstance(module, nn.Module) else []
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True


@contextmanager
def evaluating(module: object) -> Iterator[None]:
    """Eval mode and no_grad. Never inference_mode: what is read here may be used in a later backward."""
    with eval_mode(module), torch.no_grad():
        yield


def device_of(module: object) -> torch.device:
    """Where a module's weights lie; the CPU when it has none."""
    if not isinstance(module, nn.Module):
        return torch.device("cpu")
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed inside sends gradients through the module to its inputs, none to its weights."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
