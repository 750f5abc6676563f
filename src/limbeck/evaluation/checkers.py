"""Checkers: is an answer right? Functions (prompt, answer, reference) -> float, 1 for right and 0 for wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

from limbeck.errors import ArgumentError, nearest

Checker = Callable[[str, str, str], float]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact(prompt: str, answer: str, reference: str) -> float:
    """The same text, apart from white space."""
    return float(answer.split() == reference.split())


def final(prompt: str, answer: str, reference: str) -> float:
    """The same behind the last "####", or else in the last line: whatever way led there."""
    return float(_last(answer) == _last(reference) != "")


def number(prompt: str, answer: str, reference: str) -> float:
    """The same last number, by its value: 1,200 and 1200.0 are one."""
    ours, theirs = NUMBER.findall(answer), NUMBER.findall(reference)
    return float(bool(ours and theirs) and _value(ours[-1]) == _value(theirs[-1]))


def _last(text: str) -> str:
    lines = text.strip().rpartition("####")[2].strip().splitlines()
    return " ".join(lines[-1].split()) if lines else ""


def _value(text: str) -> float:
    return float(text.replace(",", ""))


CHECKERS: dict[str, Checker] = {"exact": exact, "final": final, "number": number}


def as_checker(checker: str | Checker) -> Checker:
    """A checker by name ("exact", "final", "number"), or a function as it is. Unknown: ArgumentError with the nearest."""
    if callable(checker):
        return checker
    if checker not in CHECKERS:
        raise ArgumentError(f"There is no checker {checker!r}.{nearest(str(checker), CHECKERS)} Or give a function.")
    return CHECKERS[checker]
