"""Teacher work that is done once for all trainings of a job, and kept where a later run finds it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.evaluation.modes import device_of
from limbeck.machine import fast_bf16
from limbeck.teachers.base import ModuleTeacher, Teacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.progress import counting

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task
    from limbeck.training.folder import RunFolder

AT_ONCE = 2048  # samples of a pass: many, so that texts of like length can be read together


def run_once(teacher: Teacher, data: Data, task: Task, taps: Sequence[str], at: str | None,
             home: RunFolder | None) -> StoredTeacher:  # fmt: skip
    """A teacher's signals of the training part, in a store: at `at`, in the run's folder, or in one of this process.

    Matrix products are in bfloat16 where that is fast. An interrupted pass goes on where it stopped.
    """
    from limbeck.signals.store import store_signals

    folder = Path(at) if at is not None else _place(home, "signals")
    modules = teacher.modules()
    device = device_of(modules[0]) if modules else torch.device("cpu")
    with counting("teacher's pass") as progress, torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        store = store_signals(teacher, data, folder, task=task, taps=list(taps), parts=["train"], batch_size=AT_ONCE,
                              shard_rows=4 * AT_ONCE, progress=progress)  # fmt: skip
    return StoredTeacher(store)


def token_vectors_once(teacher: ModuleTeacher, count: int, home: RunFolder | None) -> Tensor:
    """`token_vectors` of a teacher, kept in the run's folder under the hash of the teacher."""
    from safetensors.torch import load_file, save_file

    from limbeck.students.token_rows import token_vectors

    file = _place(home, "tokens") / f"{teacher.identity()[:16]}-{count}.safetensors"
    if file.is_file():
        return load_file(file)["vectors"]
    with counting("teacher's tokens") as progress:
        vectors = token_vectors(teacher.module, count, progress=progress)
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
