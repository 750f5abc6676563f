"""In which precision weights are held."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from limbeck.errors import ArgumentError, nearest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M = TypeVar("M", bound=nn.Module)


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of a word. Raises ArgumentError for others."""
    if precision not in PRECISIONS:
        raise ArgumentError(f"Weights cannot be held in {precision!r}.{nearest(str(precision), PRECISIONS)}")
    return PRECISIONS[precision]


def hold(module: M, precision: str) -> M:
    """Hold the floating-point parameters of a module in a precision, in place; double precision stays.

    Buffers stay too: the frequencies of rotary positions, rounded, would put long texts out of place.
    """
    dtype = dtype_of(precision)
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.dtype not in (dtype, torch.float64):
            parameter.data = parameter.data.to(dtype)
    return module


def in_half(module: nn.Module) -> bool:
    """Whether any parameter that is trained is held in half precision."""
    return any(p.requires_grad and p.dtype in (torch.bfloat16, torch.float16) for p in module.parameters())
