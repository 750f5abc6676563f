"""A file appears whole and checked, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.errors import ExportError


@contextmanager
def checked(path: Path) -> Iterator[Path]:
    """A place to write to. It becomes `path` at the end; after an ExportError it is kept as `path` + ".rejected".

    What was at `path` before stays until then: a failed export costs nothing that worked.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ExportError(
            f"Could not write {path}: {error.strerror or error}. What was there before is whole."
        ) from error
    except ExportError:
        if part.exists():
            os.replace(part, path.with_name(path.name + ".rejected"))
        raise
    finally:
        part.unlink(missing_ok=True)
