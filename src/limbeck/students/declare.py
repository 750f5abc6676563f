"""What a builder is: a function that makes a module and writes on it how to make it again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from limbeck.errors import ArgumentError

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


def builder(function: Callable[P, M]) -> Callable[P, M]:
    """Record name and arguments of a function that builds a module, as `module.limbeck_spec`.

    Raises ArgumentError where an argument is not a plain value (number, text, list, mapping of those).
    """

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> M:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        module = function(*args, **kwargs)
        name = f"{function.__module__}:{function.__qualname__}"
        arguments = {key: _plain(value, name, key) for key, value in bound.arguments.items()}
        module.limbeck_spec = {"builder": name, "arguments": arguments}  # type: ignore[assignment]
        return module

    build.limbeck_builder = True  # type: ignore[attr-defined]
    return build


def _plain(value: Any, name: str, key: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, name, key) for item in value]
    if isinstance(value, dict) and all(isinstance(item, str) for item in value):
        return {item: _plain(inner, name, key) for item, inner in value.items()}
    raise ArgumentError(
        f"{name}: the argument {key!r} is a {type(value).__name__}, which cannot be written into a config. "
        "A builder takes numbers, texts, and lists or mappings of them."
    )


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, or an ArgumentError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}={value!r}: expected a whole number of at least {least}.")
    return value


def share(name: str, value: Any) -> float:
    """A number from 0 to below 1, or an ArgumentError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ArgumentError(f"{name}={value!r}: expected a number from 0 to below 1.")
    return float(value)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random initialisation from this seed; the global generators are as they were afterwards."""
    # only the CPU generator is forked and seeded: torch.manual_seed would also reseed every accelerator
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
