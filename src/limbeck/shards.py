"""Tensors that lie in pieces over processes (DTensors of FSDP2), and the same as whole ones.

Every function here must be called by all processes together, in the same order, when a tensor is in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed import get_rank
from torch.distributed.tensor import DTensor, distribute_tensor


def in_pieces(value: Any) -> bool:
    """Whether a tensor lies in pieces over processes."""
    return isinstance(value, DTensor)


def whole(value: Any, everywhere: bool = False) -> Any:
    """Nested values with every tensor whole, on the CPU of the first process; the others get tensors on "meta".

    `everywhere`: on the CPU of all processes. Tensors that are not in pieces are left as they are.
    """
    if isinstance(value, DTensor):
        full = value.full_tensor().detach()
        return full.to("cpu" if everywhere or get_rank() == 0 else "meta")
    if isinstance(value, Mapping):
        return {key: whole(inner, everywhere) for key, inner in value.items()}
    return [whole(inner, everywhere) for inner in value] if isinstance(value, list) else value


def spread(value: Tensor, like: Any) -> Any:
    """A whole tensor of the first process, in pieces as `like` is; as it is where `like` is whole."""
    if not isinstance(like, DTensor):
        return value
    device = like.device
    full = torch.empty(value.shape, dtype=value.dtype, device=device) if value.is_meta else value.to(device)
    return distribute_tensor(full, like.device_mesh, like.placements)


def spread_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state with every tensor in pieces as that of the same name in `own`."""
    return {key: spread(value, own.get(key)) for key, value in state.items()}


def spread_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state of an optimizer with every tensor in pieces as its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    found = dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in found and in_pieces(parameter):
            found[number] = {
                key: spread(value, parameter) if getattr(value, "shape", None) == parameter.shape else value
                for key, value in found[number].items()
            }
    return {**state, "state": found}


def local(value: Tensor) -> Tensor:
    """This process's piece of a tensor; a whole one as it is."""
    return value.to_local() if isinstance(value, DTensor) else value
