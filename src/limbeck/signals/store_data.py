"""What a signal store knows about data: that they are the same as before, and which row belongs to which sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ArgumentError, DataError, StoreError, nearest
from limbeck.signals.store_files import StoredPart

if TYPE_CHECKING:
    from limbeck.data.base import Data, Part


def find_parts(data: Data, names: Sequence[str]) -> list[Part]:
    """Parts of the data by name. Raises ArgumentError for unknown ones, DataError for empty ones and ids that repeat."""
    for name in names:
        if name not in data.parts:
            raise ArgumentError(f"The data {data.name!r} have no part {name!r}.{nearest(name, data.parts)}")
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"parts={list(names)}: expected at least one of {', '.join(data.parts)}, each once.")
    parts = [data.parts[name] for name in names]
    for part in parts:
        if not len(part):
            raise DataError(f"The part {part.name!r} has no samples to store signals of.")
    ids = torch.cat([part.ids for part in parts])
    unique, counts = ids.unique(return_counts=True)
    if len(unique) < len(ids):
        raise DataError(
            f"{len(ids) - len(unique)} sample ids repeat in {', '.join(names)} (first: {unique[counts > 1][:5].tolist()}). "
            "A store is keyed by the id: give every sample of the data one of its own."
        )
    return parts


def describe_part(name: str, part: Part, views: str) -> StoredPart:
    """A part as the manifest names it. Raises ArgumentError for an augmentation that `views` does not fit."""
    augmentation = part.augmentation
    if augmentation is None:
        return StoredPart(name, len(part), 0, part_hash(part))
    kind, count = type(augmentation).__name__, augmentation.count
    if count is None:
        raise ArgumentError(
            f"The part {name!r} is augmented by {kind}, whose views are not a finite set, so that a stored teacher could "
            "not answer for them. Use a finite augmentation (crops and flips have a count), or load the data without one."
        )
    if views == "none":
        raise ArgumentError(
            f"The part {name!r} is augmented by {kind}: training would ask for its {count} views of every sample, and "
            f"views='none' keeps none. Say views='all' (the teacher is run on {count} x {len(part)} views), or load the "
            "data without augmentation."
        )
    same = getattr(augmentation, "identity", None)
    same = same if isinstance(same, int) and 0 <= same < count else None
    return StoredPart(name, len(part), count, part_hash(part), views_hash(part), same)


def part_hash(part: Part) -> str:
    """sha256 over the ids and the inputs of a part, as they are before augmentation. Labels do not enter."""
    from limbeck.data.identity import fingerprint_part

    return fingerprint_part(part, labels=False)


def views_hash(part: Part) -> str:
    """sha256 over all views of the first two samples: equal for augmentations that make the same views."""
    from limbeck.data.base import Part

    assert part.augmentation is not None and part.augmentation.count is not None
    apply, count = part.augmentation.apply, part.augmentation.count

    class Views(Part):
        ids = torch.arange(min(2, len(part)) * count)

        def gather(self, positions: Tensor) -> Any:
            return apply(part.gather(positions // count), positions % count)

    return part_hash(Views())


def check_part(part: Part, stored: StoredPart, folder: Any) -> None:
    """Raise StoreError, with both hashes, where a part is not the one whose signals are stored."""
    found = part_hash(part)
    if found != stored.inputs:
        raise StoreError(
            f"The store {folder} was made from other data: the part {stored.name!r} it holds has {stored.samples} samples "
            f"and the hash {stored.inputs}, the one given {len(part)} and {found}. Use the data (and split, and seed) that "
            "it was made from, or store these."
        )
    augmentation = part.augmentation
    if augmentation is None:
        return
    kind, count = type(augmentation).__name__, augmentation.count
    if not stored.views:
        raise StoreError(
            f"The part {stored.name!r} is augmented by {kind}, and the store {folder} holds its samples as they are only. "
            "Store with views='all', or train without augmentation."
        )
    seen = f"{count} views" if count != stored.views else views_hash(part)
    if seen != stored.augmentation:
        raise StoreError(
            f"The part {stored.name!r} is augmented by {kind} with {seen}; the store {folder} holds the {stored.views} views "
            f"{stored.augmentation} of another augmentation. Use that one, or store anew."
        )


@dataclass
class Chunk:
    """Rows that are computed together: one part, consecutive rows, all augmented or none."""

    part: int
    positions: Tensor
    view: Tensor | None
    begin: int
    end: int


def chunks(parts: Sequence[StoredPart], begin: int, end: int, size: int) -> Iterator[Chunk]:
    """The rows from `begin` to `end` in batches of at most `size`."""
    first = 0
    for number, part in enumerate(parts):
        segments = [part.views] if part.views else []
        for views in segments if part.identity is not None else [*segments, 0]:
            rows = part.samples * max(views, 1)
            low, high = max(begin, first), min(end, first + rows)
            for start in range(low, high, size):
                stop = min(start + size, high)
                local = torch.arange(start - first, stop - first)
                if views:
                    yield Chunk(number, local // views, local % views, start, stop)
                else:
                    yield Chunk(number, local, None, start, stop)
            first += rows


class Rows:
    """From (sample id, view) to row, for a whole batch at once."""

    def __init__(self, ids: np.ndarray, parts: Sequence[StoredPart]):
        self.parts, self.count = parts, len(ids)
        self.views = np.repeat([part.views for part in parts], [part.samples for part in parts])
        first, viewed, plain = 0, [], []
        for part in parts:
            index = np.arange(part.samples)
            viewed.append(first + index * part.views)
            after = first + part.samples * part.views + index
            plain.append(after if part.identity is None else viewed[-1] + part.identity)
            first += part.rows
        self.viewed, self.plain = np.concatenate(viewed), np.concatenate(plain)
        self.first = int(ids[0])
        # ids that count up need no search
        self.order = None if np.array_equal(ids, np.arange(self.first, self.first + self.count)) else np.argsort(ids)
        self.sorted = None if self.order is None else ids[self.order]

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The index of every id [n], and whether it is known [n]."""
        if self.order is None or self.sorted is None:
            index = ids - self.first
            known = (index >= 0) & (index < self.count)
            return index, known
        place = np.searchsorted(self.sorted, ids).clip(max=self.count - 1)
        return self.order[place], self.sorted[place] == ids

    def __call__(self, ids: np.ndarray, view: np.ndarray | None) -> np.ndarray:
        """Rows [n] of samples as they are (view None), or of their views. Raises StoreError for what is not stored."""
        index, known = self.find(ids)
        if not known.all():
            missing = ids[~known]
            raise StoreError(
                f"The store has no signals for {len(missing)} of {len(ids)} sample ids: {missing[:10].tolist()}. It holds "
                + ", ".join(f"{part.name} ({part.samples} samples)" for part in self.parts)
                + ". Store the part that they belong to as well: parts=['train', ...]."
            )
        if view is None:
            return self.plain[index]
        wrong = (view < 0) | (view >= self.views[index])
        if wrong.any():
            sample, number = int(ids[wrong][0]), int(view[wrong][0])
            raise StoreError(
                f"The store has no view {number} of the sample {sample}; it holds {int(self.views[index][wrong][0])} views "
                "of it. Store with views='all' and the augmentation of the training, or train without augmentation."
            )
        return self.viewed[index] + view
