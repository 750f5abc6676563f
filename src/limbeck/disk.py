"""Files and folders that are there completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from limbeck.errors import RunError


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it. Raises RunError where the disk does not take it."""
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_text(text)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunError(f"Could not write {path}: {error.strerror or error}.") from error
