"""The words of the command line: key=value, a file of such, and what is said of wrong ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from limbeck.errors import ArgumentError


def value(text: str) -> Any:
    """A value of the command line: YAML, and 1e-3 as the number that everybody means."""
    import yaml

    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):
        number = float(text)
        return int(number) if number.is_integer() else number
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def arguments(words: list[str] | None, config: Path | None = None) -> tuple[list[str], dict[str, Any]]:
    """Plain words, and key=value arguments on top of those of a YAML file."""
    plain: list[str] = []
    found: dict[str, Any] = {}
    if config is not None:
        import yaml

        if not config.exists():
            raise ArgumentError(f"--config {str(config)!r}: there is no such file.")
        loaded = yaml.safe_load(config.read_text())
        if not isinstance(loaded, dict):
            raise ArgumentError(f"--config {str(config)!r} must hold a mapping, key: value.")
        found.update(loaded)
        found.update(found.pop("arguments", None) or {})
    for word in words or []:
        match = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, flags=re.DOTALL)
        if match:
            found[match[1]] = value(match[2])
        else:
            plain.append(word)
    return plain, found


def one(plain: list[str], what: str) -> str:
    if len(plain) != 1:
        raise ArgumentError(f"Expected one {what}, got {plain or 'none'}. Arguments are written key=value.")
    return plain[0]


def show(found: Any) -> None:
    """Print plain values as JSON."""
    print(json.dumps(found, indent=1, default=str))


def call(function: Any, given: dict[str, Any], **fixed: Any) -> Any:
    """Call with the user's arguments; one that the function does not know is an error with the nearest name."""
    import inspect

    from limbeck.errors import nearest
    from limbeck.given import DATA_OPTIONS

    parameters = inspect.signature(function).parameters
    known = {name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY} - set(fixed)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        known |= set(DATA_OPTIONS)
    for name in given:
        if name not in known:
            raise ArgumentError(f"There is no argument {name!r} here.{nearest(name, known)}")
    missing = [
        name for name, p in inspect.signature(function).parameters.items()
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY and name not in given and name not in fixed
    ]  # fmt: skip
    if missing:
        raise ArgumentError(f"Missing: {', '.join(f'{name}=' for name in missing)}.")
    return function(**given, **fixed)


def only_named(words: list[str] | None, config: Any, needed: tuple[str, ...], example: str) -> dict[str, Any]:
    """Arguments of a command that takes key=value alone. Raises ArgumentError for other words and for what is missing."""
    plain, given = arguments(words, config)
    if plain:
        raise ArgumentError(f"Expected arguments written key=value, got {plain}. Recipes: recipes={','.join(plain)}.")
    for name in needed:
        if name not in given:
            raise ArgumentError(f"Missing: {name}=. For example: {example}")
    return given
