"""Import an optional package, or say which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from limbeck.errors import LimbeckError


def need(module: str, extra: str) -> ModuleType:
    """Import `module`; if it is not installed, raise an error that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise LimbeckError(
            f"This needs the package {module.split('.')[0]!r}, which is not installed. "
            f"Install it with: pip install 'limbeck[{extra}]'"
        ) from error
