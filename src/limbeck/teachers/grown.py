"""What a teacher said of texts, in a store that grows: other texts later cost only what is new of them.

    runs/store/                 the store of the first texts
    runs/store/more-1/, ...     of those that came later and were in none before

Only for samples whose id is a hash of them (`Task.keyed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limbeck.data.splits import take
from limbeck.errors import StoreError
from limbeck.signals.store import SignalStore
from limbeck.signals.store_data import part_hash
from limbeck.signals.store_files import MANIFEST, Manifest
from limbeck.teachers.base import Teacher
from limbeck.teachers.stored import StoredTeacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Data, Part
    from limbeck.tasks.base import Task

MORE = "more-"


class GrownTeacher(Teacher):
    """The signals of several stores of one teacher; of a sample that is in two of them, those of the first."""

    stored = True

    def __init__(self, stores: Sequence[SignalStore]):
        self.teachers = [StoredTeacher(store) for store in stores]

    @property
    def taps(self) -> list[str]:
        """The signals that it can give."""
        return self.teachers[0].taps

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        """Stored signals [batch, ...], as `StoredTeacher.read` gives them. Raises StoreError for samples in no store."""
        found: dict[str, Any] = {}
        left = torch.arange(len(batch.ids))
        for number, teacher in enumerate(self.teachers):
            last = number == len(self.teachers) - 1
            here = torch.ones(len(left), dtype=torch.bool) if last else teacher.store.has(batch.ids[left])
            places, left = left[here], left[~here]
            if not len(places):
                continue
            some = replace(batch, ids=batch.ids[places], view=None if batch.view is None else batch.view[places])
            for name, value in teacher.read(some, taps, task).items():
                if name not in found:
                    found[name] = value.new_empty((len(batch.ids), *value.shape[1:]))
                found[name][places] = value
        return found

    def identity(self) -> str:
        """The hash of the teacher whose signals these are."""
        return self.teachers[0].identity()


def grow(teacher: Teacher, data: Data, folder: Path, task: Task, taps: Sequence[str],
         store: Callable[[Data, Path], SignalStore]) -> Teacher:  # fmt: skip
    """The stored signals of the training part: what `folder` has of it, and what `store(data, place)` then adds.

    A folder without a whole store of this teacher is given to `store` as it is, which goes on with it or refuses it.
    """
    places = [folder, *sorted(folder.glob(f"{MORE}*"), key=lambda place: (len(place.name), place.name))]
    stores = [found for place in places if (found := _of(place, teacher, task, taps)) is not None]
    if not stores or stores[0].folder != folder:
        return StoredTeacher(store(data, folder))
    train, needed = data.train, []
    left = torch.ones(len(train), dtype=torch.bool)
    for each in stores:
        has = each.has(train.ids) & left
        if bool(has.any()):
            needed.append(each)
            left &= ~has
    if bool(left.any()):
        rest = replace(data, parts={"train": take(train, left.nonzero().flatten(), train.name)})
        needed.append(store(rest, _free(folder, rest.train)))
    return StoredTeacher(needed[0]) if len(needed) == 1 else GrownTeacher(needed)


def fits(have: Manifest, teacher: Teacher, task: Task, taps: Sequence[str]) -> bool:
    """Whether a store is of this teacher, of texts of this length, and has these signals."""
    same = (have.teacher, have.task, have.length) == (teacher.identity(), task.name, task.length)
    return same and set(taps) <= set(have.signals)


def _of(folder: Path, teacher: Teacher, task: Task, taps: Sequence[str]) -> SignalStore | None:
    """The store of a folder, where it is whole and fits."""
    try:
        found = SignalStore.open(folder)
    except StoreError:
        return None
    return found if fits(found.manifest, teacher, task, taps) else None


def _free(folder: Path, part: Part) -> Path:
    """The first place that is empty, or where a pass over these very texts was broken off."""
    for number in itertools.count(1):
        place = folder / f"{MORE}{number}"
        if not (place / MANIFEST).exists():
            return place
        begun = Manifest.read(place)
        if begun.parts[0].inputs == part_hash(part) and any(shard.checksum is None for shard in begun.shards):
            return place
    raise AssertionError
