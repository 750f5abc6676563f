"""What a run was asked for, in plain values: for its folder, and as the command or call that does it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data.base import Data
from limbeck.teachers.base import Teacher
from limbeck.training.folder import RunFolder


def name_of(value: Any) -> Any:
    """What a run's config says of an object: texts and numbers as they are, other things by their kind."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Teacher | nn.Module):
        return f"<{type(value).__name__}>"
    if isinstance(value, Data):
        return f"<{value.name}>"
    if isinstance(value, list | tuple):
        return [name_of(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name_of(key)): name_of(item) for key, item in value.items()}
    return f"<{type(value).__name__}>"


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return name_of(value)


def _flat(config: Mapping[str, Any], folder: RunFolder | None) -> dict[str, Any]:
    flat = {key: value for key, value in config.items() if key not in ("recipe", "arguments") and value is not None}
    return {**flat, **config["arguments"], **({"out": str(folder.path)} if folder else {})}


def command(config: Mapping[str, Any], folder: RunFolder | None) -> str:
    """The command line that does the same. Python objects have no such line; they stand in angle brackets."""
    words = ["limbeck", "distill", config["recipe"]]
    words += [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in _flat(config, folder).items()
    ]
    return " ".join(word if word.replace("=", "").isalnum() else shlex.quote(word) for word in words)


def python(config: Mapping[str, Any], folder: RunFolder | None) -> str:
    """The Python call that does the same."""
    arguments = [f"{key}={value!r}" for key, value in _flat(config, folder).items()]
    return f"lb.distill({config['recipe']!r}, {', '.join(arguments)})"
