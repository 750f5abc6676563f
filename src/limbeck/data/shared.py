"""Where the shared data and the golden cases lie. Neither is part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

from limbeck.errors import DataError

_ROOT = Path(__file__).resolve().parents[3]


def _find(variable: str, folder: str, name: str) -> Path:
    named = os.environ.get(variable)
    places = [Path(named)] if named else [_ROOT.parent / "shared" / folder, Path.cwd().parent / "shared" / folder]
    for place in places:
        if (place / name).exists():
            return place / name
    looked = ", ".join(str(place / name) for place in places)
    raise DataError(
        f"The shared {folder} {name!r} is not here (looked at {looked}). "
        f"Set {variable} to the folder that holds it; everything that does not need it works without."
    )


def find_shared(name: str = "") -> Path:
    """The folder of a shared data set, found through LIMBECK_DATA, then `../shared/data` beside the repository.

    Raises DataError, with the places it looked at, where the set is missing.
    """
    return _find("LIMBECK_DATA", "data", name)


def find_golden(name: str = "") -> Path:
    """A file of the golden cases (or their folder), through LIMBECK_GOLDEN, then `../shared/golden`."""
    return _find("LIMBECK_GOLDEN", "golden", name)
