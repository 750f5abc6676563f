"""The signal store: run a teacher once over data, keep chosen signals, train from them without the teacher.

    store = store_signals(teacher, data, "stores/x", task=task, taps=["logits", "layer3"])
    store.read(batch.ids)["layer3"]                           # [batch, ...], random access
    lb.distill(teacher="stores/x", data=...)                  # a StoredTeacher

Rows are keyed by (sample id, view), never by step, so that shuffling, batch size and the number of processes do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ArgumentError, SignalError, StoreError, nearest
from limbeck.signals.store_data import Rows, check_part, find_parts
from limbeck.signals.store_encode import Column, Signal, TopK
from limbeck.signals.store_files import IDS, Manifest, checksum, map_columns
from limbeck.signals.store_write import (
    ID_COLUMN,
    Estimate,
    Progress,
    broken_files,
    fill,
    forget,
    measure,
    plan,
    resumed,
)

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task

__all__ = ["Estimate", "Signal", "SignalStore", "TopK", "estimate", "store_signals"]

Verify = Literal["quick", "full", "none"]


def store_signals(teacher: Any, data: Data, out: str | Path, *, task: Task, taps: Sequence[str] = ("logits",),
                  top_k: int | None = None, top_mass: float | None = None, dtype: str = "float16",
                  parts: Sequence[str] = ("train",), views: Literal["none", "all"] = "none",
                  shard_rows: int | None = None, batch_size: int = 256,
                  progress: Progress | None = None, resume: bool = True) -> SignalStore:  # fmt: skip
    """Run a teacher once over parts of the data, where it lies, and keep its signals in the folder `out`.

    `taps`: names of signals; each row of a signal must have one shape for all samples. `top_k`: of signals called
    "logits" keep the k largest log-probabilities, their classes, and the mass of the rest (see `TopK`); `top_mass` chooses
    the smallest k that holds so much probability in the mean over some samples. `dtype`: float16 (3 digits, up to 65504),
    bfloat16, float32, or for top-k logits uint8 (levels between the largest and the smallest). `manifest.lost` has the KL
    that compression costs, measured on some samples. `views="all"`: every view of every sample of an augmented part.
    `shard_rows`: rows of a file (by default at most 65,536 and 64 MiB); a shard is what an interruption loses at most.
    `progress(done, rows)` is called after each batch.

    With `resume`, shards of an earlier call that are whole are kept, broken ones are made again: the same call gives the
    same bytes, interrupted or not. Without it, a store in `out` is replaced.

    Raises ArgumentError for what does not fit, DataError for repeated ids, SignalError for a tap that gives nothing,
    StoreError for NaN (with the ids), values beyond the dtype, too little room on the disk, and an `out` that holds
    another store. What was finished is kept in every case.
    """
    from limbeck.teachers.base import as_teacher

    teacher, folder = as_teacher(teacher), Path(out)
    teacher.check(data)
    planned = plan(teacher, data, task=task, taps=taps, top_k=top_k, top_mass=top_mass, dtype=dtype, parts=parts, views=views,
                   shard_rows=shard_rows, batch_size=batch_size)  # fmt: skip
    manifest = resumed(folder, planned, shard_rows, resume)
    fill(folder, manifest, teacher, find_parts(data, parts), task, batch_size, progress)
    return SignalStore.open(folder)


def estimate(teacher: Any, data: Data, out: str | Path = ".", *, task: Task, taps: Sequence[str] = ("logits",),
             top_k: int | None = None, top_mass: float | None = None, dtype: str = "float16",
             parts: Sequence[str] = ("train",), views: Literal["none", "all"] = "none") -> Estimate:  # fmt: skip
    """How many rows and bytes `store_signals` would write, and how much is free at `out`. Runs the teacher on two samples."""
    from limbeck.teachers.base import as_teacher

    planned = plan(as_teacher(teacher), data, task=task, taps=taps, top_k=top_k, top_mass=top_mass, dtype=dtype,
                   parts=parts, views=views, shard_rows=None, batch_size=256)  # fmt: skip
    return measure(planned, Path(out))


class SignalStore:
    """Signals on disk, read by sample id. Make one with `store_signals`, open it with `SignalStore.open`."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, folder: str | Path, verify: Verify = "quick") -> SignalStore:
        """Open a store. "quick" looks at the manifest and the files' sizes, "full" at every checksum, "none" at neither.

        Raises StoreError where there is no store, and naming the shards that are missing or broken.
        """
        store = cls(Path(folder), Manifest.read(Path(folder)))
        broken = store.broken(verify)
        if broken:
            named = "; ".join(f"{file} {why}" for file, why in list(broken.items())[:5])
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            raise StoreError(
                f"The store {folder} is not whole: {named}{more}. Run the command that stored it again, or "
                f"SignalStore.open({str(folder)!r}, verify='none').repair(teacher, data): these files alone are made again."
            )
        return store

    # what it holds
    @property
    def rows(self) -> int:
        """How many rows: one for each sample, or for each of its views (and the sample as it is)."""
        return self.manifest.rows

    @property
    def taps(self) -> list[str]:
        return list(self.manifest.signals)

    @property
    def signals(self) -> dict[str, Signal]:
        """How each signal is kept: encoding, dtype, shape of a sample, k."""
        return self.manifest.signals

    @cached_property
    def ids(self) -> Tensor:
        """The ids of all samples, [samples] int64, part after part."""
        path = self.folder / IDS
        if not path.is_file() or checksum(path) != self.manifest.ids:
            raise StoreError(f"{path} is missing or broken. Call repair(teacher, data) on the store.")
        return map_columns(path, ID_COLUMN, self.manifest.samples)["ids"].view(torch.int64)[:, 0].clone()

    def has(self, ids: Tensor) -> Tensor:
        """Which of these samples are stored, [n] bool."""
        return torch.from_numpy(self._rows.find(_numbers(ids))[1])

    def covers(self, ids: Tensor) -> bool:
        """Whether signals of all these samples are stored."""
        return bool(self.has(ids).all())

    def __repr__(self) -> str:
        parts = ", ".join(part.name for part in self.manifest.parts)
        return f"SignalStore({str(self.folder)!r}: {', '.join(self.taps)} of {parts}, {self.rows:,} rows)"

    # reading
    def read(
        self, ids: Tensor, view: Tensor | None = None, taps: Sequence[str] | None = None
    ) -> dict[str, Tensor | TopK]:
        """Signals of samples, in the stored dtype, on the CPU: tensors [batch, ...], or `TopK` where that was stored.

        ids [batch] int64; view [batch] int64, or None for the samples as they are; `taps` None reads all.
        Raises SignalError for a tap that is not stored, StoreError naming ids and views that are not.
        """
        names = self.taps if taps is None else list(taps)
        for name in names:
            if name not in self.manifest.signals:
                raise SignalError(f"The store {self.folder} does not hold {name!r}.{nearest(name, self.taps)}")
        rows = self._rows(_numbers(ids), None if view is None else _numbers(view))
        pick = _Pick(rows, self.manifest.shard_rows, len(self.manifest.shards))
        found: dict[str, Tensor | TopK] = {}
        for name in names:
            signal = self.manifest.signals[name]
            found[name] = signal.decode([pick(c, self._mapped[c.name]) for c in signal.columns(name)])
        return found

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self.ids.numpy(), self.manifest.parts)

    @cached_property
    def _mapped(self) -> dict[str, list[Any]]:
        """For every column its bytes in every shard: an array where there is one shard, flat memory where there are more."""
        columns = self.manifest.columns
        mapped = [map_columns(self.folder / shard.file, columns, shard.rows) for shard in self.manifest.shards]
        arrays = {column.name: [shard[column.name].numpy() for shard in mapped] for column in columns}
        if len(mapped) == 1:
            return arrays
        return {name: [array.data.cast("B") for array in shards] for name, shards in arrays.items()}

    # trust
    def broken(self, verify: Verify = "full") -> dict[str, str]:
        """The files that are not what the manifest says, and why."""
        if verify not in ("quick", "full", "none"):
            raise ArgumentError(f"verify={verify!r}.{nearest(verify, ['quick', 'full', 'none'])}")
        return {} if verify == "none" else broken_files(self.folder, self.manifest, verify)

    def check(self, teacher: Any = None, data: Data | None = None) -> None:
        """Raise StoreError, with both hashes, where the store was made from another teacher or from other data."""
        if teacher is not None:
            from limbeck.teachers.base import as_teacher

            found = as_teacher(teacher).identity()
            if found != self.manifest.teacher:
                raise StoreError(
                    f"The store {self.folder} was made from another teacher: it holds the signals of "
                    f"{self.manifest.teacher}, the one given is {found}. Use that teacher, or store this one's."
                )
        if data is not None:
            both = [part for part in self.manifest.parts if part.name in data.parts]
            if not both:
                raise StoreError(
                    f"The store {self.folder} holds {', '.join(part.name for part in self.manifest.parts)}; the data "
                    f"{data.name!r} have {', '.join(data.parts)}. Store one of these."
                )
            for part in both:
                check_part(data.parts[part.name], part, self.folder)

    def repair(
        self, teacher: Any, data: Data, *, task: Task | None = None, progress: Progress | None = None
    ) -> list[str]:
        """Make missing and broken files again, those alone; returns their names. Raises StoreError as `check` does."""
        from limbeck.tasks import resolve
        from limbeck.teachers.base import as_teacher

        teacher = as_teacher(teacher)
        teacher.check(data)
        self.check(teacher, data)
        forget(self.manifest, self.broken("full"))
        parts = find_parts(data, [part.name for part in self.manifest.parts])
        for name in ("ids", "_rows", "_mapped"):
            self.__dict__.pop(name, None)
        return fill(self.folder, self.manifest, teacher, parts, task or resolve(self.manifest.task, data),
                    self.manifest.batch_size, progress)  # fmt: skip


class _Pick:
    """Rows of a column, out of all shards, in one pass."""

    def __init__(self, rows: np.ndarray, shard_rows: int, shards: int):
        self.rows, self.single = rows, shards == 1
        if not self.single:
            number, self.offset = np.divmod(rows, shard_rows)
            self.number = number.tolist()

    def __call__(self, column: Column, shards: list[Any]) -> Tensor:
        if not len(self.rows):
            return torch.empty((0, *column.shape), dtype=column.dtype)
        if self.single:
            return torch.from_numpy(shards[0].take(self.rows, axis=0)).view(column.dtype).view(-1, *column.shape)
        # a slice and a join cost 0.2 us a row however many shards there are; a gather per shard 3 us for each of them
        width, begins = column.width, (self.offset * column.width).tolist()
        joined = bytearray().join([shards[n][begin : begin + width] for n, begin in zip(self.number, begins)])
        return torch.frombuffer(joined, dtype=column.dtype).view(-1, *column.shape)


def _numbers(ids: Tensor) -> np.ndarray:
    return torch.as_tensor(ids).detach().cpu().to(torch.int64).numpy()
