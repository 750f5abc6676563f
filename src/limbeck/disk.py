"""Files and folders that are there completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told apart there
    fcntl = None  # type: ignore[assignment]


def hold(folder: Path) -> int:
    """Take a folder for this process alone, until `release` or the process ends. Raises RunError where another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RunError(f"Another process is training in {folder}. Wait for it, or choose another folder.") from error
    except OSError:  # a file system without locks
        pass
    return handle


def release(handle: int) -> None:
    """Let go of what `hold` took."""
    os.close(handle)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses while this is open becomes a RunError that says the way out.

    safetensors and torch.save make errors of their own of a full disk.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        of_torch = re.search("PytorchStreamWriter|unexpected pos|inline_container|file write", str(error))
        if isinstance(error, RuntimeError) and not of_torch:
            raise
        told = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise RunError(
            f"Could not write {path}: {told}. What was written before is whole. Make room or choose another folder; a run "
            "that had begun goes on with the same command and resume=true."
        ) from error


def read(path: Path, way: str = "Start anew with overwrite=true, or choose another folder.") -> Any:
    """What a run's JSON or YAML file holds. Raises RunError where it is missing or damaged."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunError(f"{path} cannot be read ({why}): it is damaged or gone. {way}") from error


@contextlib.contextmanager
def reading(path: Path, way: str) -> Iterator[None]:
    """Damaged weights or states that are read while this is open become a RunError with the way out."""
    import pickle

    from safetensors import SafetensorError

    try:
        yield
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({str(error).splitlines()[0]}): it is damaged. {way}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it. Raises RunError where the disk does not take it."""
    aside = path.with_name(path.name + ".tmp")
    with writing(path):
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
