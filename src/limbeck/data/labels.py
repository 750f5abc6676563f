"""Labels as tensors: classes or values, by what they look like; missing ones, strange ones, renumbered ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data import tables
from limbeck.data.raw import Raw
from limbeck.errors import ArgumentError, DataError


def target_of(raw: Raw, target: str | None) -> str:
    """ "classes" or "values": what the user says, else what the labels look like."""
    if target is not None:
        if target not in ("classes", "values"):
            raise ArgumentError(f"target={target!r}: expected 'classes' or 'values'.")
        return target
    if raw.labels is None:
        return "none"
    if raw.classes is not None:
        return "classes"
    labels = np.asarray(raw.labels)
    if labels.ndim > 1:
        return "values"
    if labels.dtype.kind == "f":
        whole = labels[np.isfinite(labels)]
        return "classes" if len(np.unique(whole)) <= 20 and bool((whole == np.round(whole)).all()) else "values"
    if labels.dtype.kind in "iu" and len(np.unique(labels)) > max(100, len(labels) // 5):
        return "values"
    return "classes"


def encode_labels(labels: dict[str, Any], target: str, classes: list[str] | None,
                  name: str) -> tuple[dict[str, Tensor | None], list[str] | None]:  # fmt: skip
    """Labels as tensors, and the names of the classes. Missing and unknown ones: DataError with the first rows."""
    if target == "none":
        return dict.fromkeys(labels), None
    if target == "values":
        found: dict[str, Tensor | None] = {}
        for split, given in labels.items():
            try:
                values = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"{name}: labels of {split!r} are no numbers: {error}") from error
            tables.check_finite(values.reshape(len(values), -1), f"{name}: the label column of {split!r}")
            found[split] = torch.from_numpy(values).float()
        return found, None
    for split, given in labels.items():
        _check_labels(given, split, name, classes)
    train = np.asarray(labels["train"])
    if classes is None:
        kinds = sorted({_plain(value) for value in train if _plain(value) != -100}, key=lambda v: (str(type(v)), v))
        if len(kinds) < 2:
            raise DataError(
                f"{name}: the labels have one value only, {kinds}. Classification needs two classes or more."
            )
        classes, index = [str(kind) for kind in kinds], {kind: number for number, kind in enumerate(kinds)}
    else:
        index = {number: number for number in range(len(classes))}
    index[-100] = -100
    found = {}
    for split, given in labels.items():
        plain = [_plain(value) for value in np.asarray(given)]
        unknown = sorted({str(value) for value in plain if value not in index})
        if unknown:
            raise DataError(f"{name}: the part {split!r} has labels that training does not: {unknown[:5]}.")
        found[split] = torch.tensor([index[value] for value in plain])
    return found, classes


def renumbered(classes: Sequence[str]) -> list[str]:
    """A warning where labels are whole numbers other than 0, 1, 2, ...: a model's outputs may be numbered by them."""
    numbers = [int(name) for name in classes if name.isdecimal()]
    if len(numbers) < len(classes) or numbers == list(range(len(numbers))):
        return []
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return [
        f"The labels {shown} were numbered from 0 in this order, as the outputs of the models are. A teacher whose outputs "
        "stand for these numbers themselves does not fit."
    ]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value == int(value) else value


def _check_labels(given: Any, split: str, name: str, classes: list[str] | None) -> None:
    values = np.asarray(given)
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    elif values.dtype == object:
        missing = np.array([value is None or value != value for value in values])
    else:
        missing = np.zeros(len(values), dtype=bool)
    if missing.any():
        rows = missing.nonzero()[0]
        raise DataError(
            f"{name}: {len(rows)} of {len(values)} labels of {split!r} are missing (first rows: {rows[:5].tolist()}). Drop "
            "those rows, put them into a file of their own (unlabelled=FILE), or label them -100 to train on them unlabelled."
        )
    if values.dtype.kind in "iuf":
        limit = len(classes) if classes is not None else np.inf
        wrong = ((values < 0) & (values != -100)) | (values >= limit)
        if wrong.any():
            rows = wrong.nonzero()[0]
            raise DataError(
                f"{name}: {len(rows)} labels of {split!r} are out of range, such as {values[rows[0]]} in row {rows[0]}. "
                f"Expected {'0 to ' + str(int(limit) - 1) if np.isfinite(limit) else '0 or more'}, or -100 for unlabelled."
            )
