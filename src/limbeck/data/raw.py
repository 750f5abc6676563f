"""Samples as they were read, before labels are encoded and splits are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.errors import DataError


@dataclass
class Raw:
    """One split as read. `inputs`: a frame, an array, a list of texts, or a Part; `labels`: an array, or None."""

    kind: str  # "table", "image", "text", "other"
    inputs: Any
    labels: Any = None
    label: str | None = None
    features: list[str] | None = None
    classes: list[str] | None = None  # names of integer labels, where the source says them

    def __len__(self) -> int:
        return len(self.inputs)


SPLITS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
          "test": "test", "testing": "test", "unsupervised": "unlabelled", "unlabelled": "unlabelled",
          "unlabeled": "unlabelled"}  # fmt: skip


def check_alike(known: Raw, other: Raw, name: str) -> None:
    """Raise DataError where unlabelled samples cannot join labelled ones: another kind, or columns beside an array."""
    first, second = (
        f"{raw.kind} data" + (" with columns" if hasattr(raw.inputs, "columns") else "") for raw in (known, other)
    )
    if first != second:
        raise DataError(
            f"The unlabelled samples are {second}, those of {name} are {first}. Give both in the same form, with the same "
            "columns."
        )
