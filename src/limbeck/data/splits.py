"""Splits made once, seeded, written down; and labels hidden on purpose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.base import Part, SubsetPart, TensorPart, TextPart
from limbeck.errors import ArgumentError, DataError

Size = float | int


def take(part: Part, positions: Tensor, name: str) -> Part:
    """Some samples of a part, with their ids. In memory they are copied once, so that a batch stays one indexing."""
    own = getattr(part, "take", None)
    if own is not None:
        return own(positions, name)
    if isinstance(part, TensorPart):
        labels = None if part.labels is None else part.labels[positions]
        return type(part)(name, part.gather_raw(positions), labels, part.ids[positions], part.augmentation)
    return SubsetPart(part, positions, name)


def spread(total: int, most: int | None = None) -> Tensor:
    """Positions of at most `most` of `total` samples (None: all), evenly spread: [n] int64, rising."""
    if most is None or total <= most:
        return torch.arange(total)
    return torch.arange(most) * total // most


def amount(size: Size, total: int, what: str) -> int:
    """How many samples a fraction or a count means."""
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < math.inf:
        raise ArgumentError(f"{what}={size!r}: expected a fraction from 0 to 1, or a number of samples.")
    count = round(size * total) if isinstance(size, float) and size <= 1 else int(size)
    if size and not 0 < count < total:
        between = f" Give a number between 0 and {total}." if total > 1 else ""
        raise DataError(f"{what}={size!r} of {total} samples would be {count} and leave an empty part.{between}")
    return count


def cut(part: Part, count: int, seed: int, names: tuple[str, str], warnings: list[str]) -> tuple[Part, Part]:
    """Cut `count` samples off a part, stratified by class where there are classes; deterministic in the seed."""
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(part))
    classes = None if part.labels is None or part.labels.is_floating_point() else part.labels.numpy()
    try:
        rest, off = train_test_split(positions, test_size=count, random_state=seed, stratify=classes)
    except ValueError as error:
        warnings.append(f"The part {names[1]!r} could not be stratified by class ({error}); it was cut at random.")
        rest, off = train_test_split(positions, test_size=count, random_state=seed)
    return (
        take(part, torch.from_numpy(np.sort(rest)), names[0]),
        take(part, torch.from_numpy(np.sort(off)), names[1]),
    )


def hold_out(parts: dict[str, Part], sizes: Mapping[str, Size], seed: int, warnings: list[str]) -> dict[str, int]:
    """Cut the parts that are missing off the training part, a fraction giving 1,000 samples at most; what was made."""
    made = {}
    for name, size in sizes.items():
        if name not in parts and size:
            most = 1000 if isinstance(size, float) else len(parts["train"])
            made[name] = min(amount(size, len(parts["train"]), name), most)
            parts["train"], parts[name] = cut(parts["train"], made[name], seed, ("train", name), warnings)
    return made


def hide(part: Part, labelled: Size, seed: int, warnings: list[str]) -> Part:
    """Keep the labels of some samples (a count or a fraction of the labelled ones; 0: of none), stratified; hide the rest."""
    known = part.is_labelled().nonzero()[:, 0]
    if isinstance(labelled, int) and not isinstance(labelled, bool) and labelled == len(known):
        return part
    count = amount(labelled, len(known), "labelled")
    assert part.labels is not None
    hidden: Any = float("nan") if part.labels.is_floating_point() else -100
    labels = torch.full_like(part.labels, hidden)
    if not count:
        return part.with_labels(labels)
    kept, _ = cut(take(part, known, "known"), len(known) - count, seed, ("kept", "hidden"), warnings)
    where = torch.isin(part.ids, kept.ids)
    labels[where] = part.labels[where]
    return part.with_labels(labels)


def join(first: Part, second: Part) -> Part:
    """Two parts as one: labelled samples and unlabelled ones."""
    assert first.labels is not None
    hidden: Any = float("nan") if first.labels.is_floating_point() else -100
    shape = (len(second), *first.labels.shape[1:])
    labels = torch.cat([first.labels, torch.full(shape, hidden, dtype=first.labels.dtype)])
    ids = torch.cat([first.ids, second.ids])
    if isinstance(first, TensorPart) and isinstance(second, TensorPart):
        if isinstance(first.inputs, dict):
            inputs: Any = {key: torch.cat([first.inputs[key], second.inputs[key]]) for key in first.inputs}
        else:
            if first.inputs.shape[1:] != second.inputs.shape[1:]:
                raise DataError(
                    f"Unlabelled samples have shape {list(second.inputs.shape[1:])}, labelled ones "
                    f"{list(first.inputs.shape[1:])}. Give them the same columns or image size."
                )
            inputs = torch.cat([first.inputs, second.inputs])
        return type(first)(first.name, inputs, labels, ids, first.augmentation)
    if isinstance(first, TextPart) and isinstance(second, TextPart):
        return TextPart(first.name, first.texts + second.texts, labels, ids)
    joined = JoinedPart(first, second, labels)
    return joined


class JoinedPart(Part):
    """Samples of two parts that are read when they are needed."""

    def __init__(self, first: Part, second: Part, labels: Tensor):
        self.first, self.second, self.labels, self.name = first, second, labels, first.name
        self.ids, self.augmentation = torch.cat([first.ids, second.ids]), first.augmentation

    def gather(self, positions: Tensor) -> Any:
        inside = positions < len(self.first)
        if bool(inside.all()):
            return self.first.gather(positions)
        if not bool(inside.any()):
            return self.second.gather(positions - len(self.first))
        one, two = self.first.gather(positions[inside]), self.second.gather(positions[~inside] - len(self.first))
        order = torch.cat([inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]]).argsort()
        if isinstance(one, dict):
            return {key: torch.cat([one[key], two[key]])[order] for key in one}
        return torch.cat([one, two])[order]
