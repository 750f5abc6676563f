"""Teacher work that is done once for all trainings of a job, and kept where a later run finds it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.evaluation.modes import device_of
from limbeck.machine import fast_bf16
from limbeck.signals.store_data import part_hash
from limbeck.signals.store_files import MANIFEST, Manifest
from limbeck.teachers.base import ModuleTeacher, Teacher
from limbeck.teachers.grown import fits, grow
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.progress import counting

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.signals.store import SignalStore
    from limbeck.tasks.base import Task
    from limbeck.training.folder import RunFolder


class Pass:
    """Counts what a teacher's pass reads, moves a bar if there is one, and says what it took: for the report."""

    def __init__(self, what: str, bar: Callable[[int, int], None] | None):
        self.what, self.bar, self.begun = what, bar, time.perf_counter()
        self.first, self.last = 0, 0  # after the first batch and the last one

    def __call__(self, done: int, total: int) -> None:
        self.first, self.last = self.first or done, done
        if self.bar is not None:
            self.bar(done, total)

    def record(self, passes: list[dict[str, Any]], batch: int) -> None:
        """Add what was read now, and not before this process."""
        rows = self.last - self.first + min(batch, self.first)
        if rows:
            passes.append({"what": self.what, "rows": rows, "seconds": round(time.perf_counter() - self.begun, 3)})


def run_once(teacher: Teacher, data: Data, task: Task, taps: Sequence[str], at: str | None, home: RunFolder | None,
             passes: list[dict[str, Any]]) -> Teacher:  # fmt: skip
    """A teacher's signals of the training part, in a store: at `at`, in the run's folder, or in one of this process.

    What `at` has of a task's `keyed` samples, from whatever data, is not read again. Matrix products are in bfloat16 where
    that is fast. An interrupted pass goes on where it stopped, less what is not yet a file: some rounds of `task.at_once`.
    What was read, and how long it took, is added to `passes`.
    """
    from limbeck.signals.store import store_signals

    folder = Path(at) if at is not None else _place(home, "signals")
    modules = teacher.modules()
    device = device_of(modules[0]) if modules else torch.device("cpu")

    def store(data: Data, place: Path) -> SignalStore:
        with counting("teacher's pass") as bar, torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            progress = Pass("samples", bar)
            made = store_signals(teacher, data, place, task=task, taps=list(taps), parts=["train"], batch_size=task.at_once,
                                 shard_rows=2048, dtype=task.kept_as, progress=progress)  # fmt: skip
            progress.record(passes, task.at_once)
        return made

    if at is None and home is not None and home.writes and home.replaces:
        _leave(folder, teacher, data, task, taps)
    if task.keyed:
        return grow(teacher, data, folder, task, taps, store)
    return StoredTeacher(store(data, folder))


def _leave(folder: Path, teacher: Teacher, data: Data, task: Task, taps: Sequence[str]) -> None:
    """Remove what an overwritten run has stored, where it is of no use to this one."""
    if (folder / MANIFEST).exists():
        have = Manifest.read(folder)
        if not fits(have, teacher, task, taps) or not (task.keyed or have.parts[0].inputs == part_hash(data.train)):
            shutil.rmtree(folder)


def token_vectors_once(teacher: ModuleTeacher, count: int, home: RunFolder | None,
                       passes: list[dict[str, Any]]) -> Tensor:  # fmt: skip
    """`token_vectors` of a teacher, kept in the run's folder under the hash of the teacher."""
    from safetensors.torch import load_file, save_file

    from limbeck.students.token_rows import token_vectors

    file = _place(home, "tokens") / f"{teacher.identity()[:16]}-{count}.safetensors"
    if file.is_file():
        return load_file(file)["vectors"]
    with counting("teacher's tokens") as bar:
        progress = Pass("single tokens", bar)
        vectors = token_vectors(teacher.module, count, progress=progress)
        progress.record(passes, count)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    save_file({"vectors": vectors}, aside)
    aside.replace(file)
    return vectors


_temporary: list[tempfile.TemporaryDirectory[str]] = []


def _place(home: RunFolder | None, name: str) -> Path:
    if home is not None and home.writes:
        home.begin()
        return home.path / name
    _temporary.append(tempfile.TemporaryDirectory(prefix="limbeck-"))
    return Path(_temporary[-1].name) / name
