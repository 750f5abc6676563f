"""Optimizers of a learner: decayed and undecayed parameters apart, sparse ones with an optimizer of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from limbeck.errors import ArgumentError
from limbeck.training.learner import Learner
from limbeck.training.settings import Settings

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)


def make_optimizers(learner: Learner, settings: Settings) -> list[torch.optim.Optimizer]:
    """One optimizer, and SparseAdam beside it where a table has sparse gradients.

    A learner's own `optimizer` may be a function of parameters, or a mapping of settings that differ for it.
    """
    if callable(learner.optimizer):
        found = [learner.optimizer([p for p in learner.parameters() if p.requires_grad])]
    else:
        if isinstance(learner.optimizer, Mapping):
            settings = settings.with_(**learner.optimizer)
        found = _default(learner, settings)
    for optimizer in found:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
    return found


def _default(learner: Learner, settings: Settings) -> list[torch.optim.Optimizer]:
    decayed, plain, sparse = split(learner)
    if not (decayed or plain or sparse):
        raise ArgumentError(f"The learner {learner.name!r} has no parameter that can be trained.")
    rate = settings.learning_rate
    found: list[torch.optim.Optimizer] = []
    groups: list[dict[str, Any]] = [{"params": plain, "weight_decay": 0.0}] if plain else []
    if decayed:
        groups.append({"params": decayed, "weight_decay": settings.weight_decay})
    if groups:
        # fused updates: one kernel for all parameters, also on the CPU
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])
        if settings.optimizer == "sgd":
            found.append(torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, fused=fused))
        elif settings.optimizer == "adam":
            found.append(torch.optim.Adam(groups, lr=rate, fused=fused))
        else:
            found.append(torch.optim.AdamW(groups, lr=rate, fused=fused))
    if sparse:
        found.append(torch.optim.SparseAdam(sparse, lr=rate))
    return found


def split(learner: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that are decayed (matrices), not decayed (norms, biases, scalars), and sparse (tables)."""
    decayed, plain, sparse, seen = [], [], [], set()
    for module in learner.modules():
        # not module.parameters(): a term of weight 0 has nothing yet, and needs nothing
        for _, parameter in nn.Module.named_parameters(module, recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if getattr(module, "sparse", False):
                sparse.append(parameter)
            elif parameter.ndim < 2 or isinstance(module, _NORMS):
                plain.append(parameter)
            else:
                decayed.append(parameter)
    return decayed, plain, sparse


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Every group's rate to its initial one times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
