"""What Limbeck says when it cannot go on.

Every message names what was given, what was expected, and the way out. All derive from `LimbeckError`, so that one
`except` catches what is the user's to mend and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimbeckError(Exception):
    """Something the user can mend; the message says how."""


class ArgumentError(LimbeckError, ValueError):
    """An unknown, missing or ill-typed argument, recipe or option."""


class DataError(LimbeckError, ValueError):
    """Data that cannot be read, split or trusted: columns, labels, empty parts, NaN."""


class ModelError(LimbeckError, ValueError):
    """A teacher or student that cannot be loaded, or does not fit the task."""


class SignalError(LimbeckError, RuntimeError):
    """A tap that matches nothing, a signal that never came, shapes that do not meet."""


class StoreError(LimbeckError, RuntimeError):
    """A signal store that is broken, incomplete, or made from another teacher or other data."""


class ExportError(LimbeckError, RuntimeError):
    """An export that failed or does not compute what the student computes."""


class IndexMismatchError(LimbeckError, ValueError):
    """An index whose vectors are in the space of another teacher than the student's."""


class RunError(LimbeckError, RuntimeError):
    """A run that cannot start, continue or be saved."""


class DivergedError(RunError):
    """A loss became NaN or infinite at optimizer step `step`; the last good checkpoint was kept."""

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


class Interrupted(LimbeckError):
    """The user stopped the run; what was done is saved."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint such as ` Did you mean 'forward_kl'?`, or the choices, or nothing when there are none."""
    choices = sorted(set(map(str, choices)))
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (f", ... ({len(choices)} in all)" if len(choices) > 12 else "")
    return f" Choose one of: {shown}."
