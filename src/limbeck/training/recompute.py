"""Activation checkpointing: layers keep their inputs only, and are run a second time in the backward pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import ArgumentError
from limbeck.students.adapters import has_adapters
from limbeck.students.pretrained import is_pretrained


def recompute(module: nn.Module, on: bool = True) -> None:
    """Switch it on (or off again) for the layers of a Transformers model, in its form that keeps taps' gradients right.

    That is the non-reentrant one: a signal that is tapped inside a layer is the first run's, and its gradient goes
    through the second. Raises ArgumentError for a module that cannot.
    """
    inner: Any = module.get_base_model() if has_adapters(module) else module  # type: ignore[operator]
    if not is_pretrained(inner) or not getattr(inner, "supports_gradient_checkpointing", False):
        if not on:
            return
        raise ArgumentError(
            f"checkpointing=true: {type(inner).__name__} has no layers that can be run again (Transformers models have). Leave "
            "it out; accumulate= saves memory with any module."
        )
    word = "activation" if hasattr(inner, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(inner, f"{word}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(inner, f"{word}_checkpointing_disable")()
