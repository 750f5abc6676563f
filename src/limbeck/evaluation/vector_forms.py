"""Vectors made smaller after training: fewer numbers, numbers of one byte, signs alone.

    turn = rotation(teacher_vectors)
    forms(turn)["first 64"](rows)             # [texts, 64]

A student in its teacher's space can be cut as the teacher can, though neither was trained for it (LEAF, 2025).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from limbeck.errors import ArgumentError

Rows = np.ndarray  # [texts, width]
Form = Callable[[Rows], Rows]


def rotation(rows: Rows) -> Rows:
    """A rotation [width, width] after which the first numbers of vectors say most: rows @ rotation(rows).

    The eigenvectors of the second moment of `rows`, not centred, the largest first. Cosines stay as they are.
    """
    values, turn = np.linalg.eigh(rows.T.astype(np.float64) @ rows.astype(np.float64))
    return np.ascontiguousarray(turn[:, np.argsort(-values)].astype(np.float32))


def truncated(rows: Rows, turn: Rows, count: int) -> Rows:
    """The first `count` numbers of turned vectors. Raises ArgumentError where they have fewer."""
    if not 0 < count <= rows.shape[1]:
        raise ArgumentError(f"count={count}: these vectors have {rows.shape[1]} numbers.")
    return rows @ turn[:, :count]


def in_bytes(rows: Rows) -> Rows:
    """As whole numbers from -127 to 127 with one scale for all rows, the largest size there is."""
    scale = np.abs(rows).max() / 127 or 1.0
    return np.rint(rows / scale).clip(-127, 127)


def signs(rows: Rows) -> Rows:
    """Signs alone, 1 and -1: one bit a number. The cosine of two rows is 1 - 2 x (share of bits in which they differ)."""
    return np.where(rows >= 0, np.float32(1), np.float32(-1))


def forms(turn: Rows, counts: tuple[int, ...] = (128, 64, 32)) -> dict[str, Form]:
    """Every form by name: as they are, "bytes", "signs", and "first N" numbers of turned vectors."""
    found: dict[str, Form] = {"as they are": lambda rows: rows, "bytes": in_bytes, "signs": signs}
    for count in counts:
        if count < len(turn):
            found[f"first {count}"] = lambda rows, count=count: truncated(rows, turn, count)  # type: ignore[misc]
    return found
