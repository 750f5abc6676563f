"""A teacher whose signals lie on disk: no model in memory, no forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from limbeck.errors import StoreError
from limbeck.signals.store import SignalStore
from limbeck.teachers.base import Teacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Data, Part
    from limbeck.tasks.base import Task


class StoredTeacher(Teacher):
    """The signals of a store, or of the store in a folder, by `batch.ids` and `batch.view`.

    They come in float32 on the device of the batch. Logits of which the top k were stored stand for log-probabilities with
    an evenly spread tail: these are made here (`TopK.dense`), or, for a task whose logits are lazy, by the walk for a few
    tokens at a time. `store.read` gives them as they are.
    """

    stored = True

    def __init__(self, store: SignalStore | str | Path):
        self.store = store if isinstance(store, SignalStore) else SignalStore.open(store)

    @property
    def taps(self) -> list[str]:
        """The signals that it can give."""
        return self.store.taps

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        """Stored signals [batch, ...]. Raises SignalError for another tap, StoreError for samples or views not stored, and for
        texts of another length."""
        if task.length != self.store.manifest.length:
            raise StoreError(
                f"The store {self.store.folder} holds what its teacher said of texts of length={self.store.manifest.length}; "
                f"now length={task.length}. Give the length that was stored, or store again."
            )
        device, lazy = batch.ids.device, getattr(task, "lazy", False)
        found: dict[str, Any] = {}
        for name, value in self.store.read(batch.ids, batch.view, taps).items():
            # moved before it is made larger: float32 is twice, dense many times what was stored
            here = value.to(device)
            found[name] = here.float() if isinstance(here, Tensor) else here if lazy else here.dense()
        return found

    def identity(self) -> str:
        """The hash of the teacher whose signals these are."""
        return self.store.manifest.teacher

    def covers(self, part: Part) -> bool:
        """Whether every sample of a part is stored."""
        return self.store.covers(part.ids)

    def check(self, data: Data) -> None:
        """Raise StoreError, with both hashes, where the signals were made from other data or another augmentation."""
        self.store.check(data=data)
