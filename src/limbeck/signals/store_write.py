"""Filling a signal store: plan it, run the teacher shard by shard, record what is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, SignalError, StoreError, nearest
from limbeck.signals.store_data import chunks, describe_part, find_parts
from limbeck.signals.store_encode import KEPT, Column, check_values, describe_signal
from limbeck.signals.store_files import IDS, MANIFEST, Manifest, Shard, checksum, size_of, write_columns
from limbeck.signals.store_levels import k_for, lost
from limbeck.signals.taps import ChangedInPlace

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Data, Part
    from limbeck.tasks.base import Task
    from limbeck.teachers.base import Teacher

Progress = Callable[[int, int], None]
SHARD_ROWS, SHARD_BYTES = 65_536, 64 << 20  # what is lost at most by a kill, and held in memory while a shard is made
LOOKED_AT = 32  # samples by which k is chosen, and what compression loses is measured
ID_COLUMN = [Column("ids", torch.int64, ())]


@dataclass(frozen=True)
class Estimate:
    """What a store will take: `rows` teacher passes of one sample each, `bytes` on disk, `free` there now."""

    rows: int
    row_bytes: int
    shards: int
    bytes: int
    free: int

    def __str__(self) -> str:
        return (f"{self.rows:,} rows of {self.row_bytes:,} bytes in {self.shards} shards: {self.bytes / 1e6:,.1f} MB "
                f"({self.free / 1e6:,.1f} MB are free)")  # fmt: skip


def plan(teacher: Teacher, data: Data, *, task: Task, taps: Sequence[str], top_k: int | None, top_mass: float | None,
         dtype: str, parts: Sequence[str], views: str, shard_rows: int | None, batch_size: int) -> Manifest:  # fmt: skip
    """The manifest of a store in which no shard is written yet. Runs the teacher on some samples, to see shapes and what
    compression loses."""
    for name, value, known in (("dtype", dtype, KEPT), ("views", views, ("none", "all"))):
        if value not in known:
            raise ArgumentError(f"{name}={value!r}.{nearest(str(value), known)}")
    for name, number in (("top_k", top_k), ("shard_rows", shard_rows), ("batch_size", batch_size)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ArgumentError(f"{name}={number!r}: expected a whole number of 1 or more.")
    if not taps or isinstance(taps, str):
        raise ArgumentError(f"taps={taps!r}: expected a list of signals, such as ['logits', 'layer3'].")
    if top_k is not None and top_mass is not None:
        raise ArgumentError(f"top_k={top_k} and top_mass={top_mass} both say how many classes are kept. Give one.")
    cut = top_k is not None or top_mass is not None
    if dtype == "uint8" and not cut:
        raise ArgumentError("dtype='uint8' is for the values of top-k logits: give top_k=64 or top_mass=0.98 too.")
    if cut and (task.name == "regression" or not any(tap.rpartition(".")[2] == "logits" for tap in taps)):
        given = f"top_k={top_k}" if top_mass is None else f"top_mass={top_mass}"
        raise ArgumentError(f"{given} is for logits of classes; this store keeps {list(taps)} of {task.name}.")
    found = find_parts(data, parts)
    signals = read_signals(
        teacher, found[0].batch(torch.arange(min(LOOKED_AT if cut else 2, len(found[0])))), taps, task
    )
    logits = [name for name in signals if cut and name.rpartition(".")[2] == "logits"]
    if top_mass is not None:
        top_k = max(k_for(signals[name], top_mass) for name in logits)
    specs = {name: describe_signal(name, value, dtype, top_k) for name, value in signals.items()}
    losses = {name: lost(specs[name], signals[name]) for name in logits}
    described = [describe_part(name, part, views) for name, part in zip(parts, found, strict=True)]
    manifest = Manifest(
        teacher.identity(), data.name, task.name, specs, described, "", batch_size, 0, lost=losses, length=task.length
    )
    width = sum(column.width for column in manifest.columns)
    return divide(manifest, shard_rows or max(1, min(SHARD_ROWS, SHARD_BYTES // max(width, 1))))


def divide(manifest: Manifest, shard_rows: int) -> Manifest:
    """Set the shards: all of `shard_rows` rows but the last."""
    manifest.shard_rows = shard_rows
    manifest.shards = [
        Shard(f"shard-{number:05d}.safetensors", min(shard_rows, manifest.rows - start))
        for number, start in enumerate(range(0, manifest.rows, shard_rows))
    ]
    return manifest


def measure(manifest: Manifest, folder: Path) -> Estimate:
    """What the shards that are not written yet will take, and what the disk has."""
    columns = manifest.columns
    pending = [shard for shard in manifest.shards if shard.checksum is None]
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    size = sum(size_of(columns, shard.rows) for shard in pending) + size_of(ID_COLUMN, manifest.samples)
    return Estimate(sum(shard.rows for shard in pending), sum(column.width for column in columns), len(pending), size,
                    shutil.disk_usage(place).free)  # fmt: skip


def resumed(folder: Path, planned: Manifest, shard_rows: int | None, resume: bool) -> Manifest:
    """The manifest to go on with: that of the folder where it has one, with broken shards marked as pending.

    Raises StoreError for a store made from something else, and a folder that holds other things.
    """
    ours: list[Path] = []
    others: list[Path] = []
    for child in folder.glob("*"):
        name = child.name.removesuffix(".tmp")
        mine = name in (IDS, MANIFEST) or re.fullmatch(r"shard-\d+\.safetensors", name)
        (ours if mine else others).append(child)
    begun = (folder / MANIFEST).exists()
    if not begun and others:
        named = ", ".join(sorted(child.name for child in others)[:5])
        raise StoreError(f"{folder} holds other things ({named}). Give a new folder for the store.")
    known = Manifest.read(folder) if begun else planned
    keep = begun and resume
    for child in sorted(ours, key=lambda child: child.name != MANIFEST):  # the manifest first: without it no store
        if not keep or child.name.endswith(".tmp"):
            child.unlink()
    if not keep:
        return planned
    if shard_rows is None and known.shard_rows != planned.shard_rows:
        divide(planned, known.shard_rows)
    differences = [
        f"{name}: {before} there, {now} now" for name, before, now in (
            ("teacher", known.teacher, planned.teacher), ("task", known.task, planned.task),
            ("signals", known.signals, planned.signals), ("parts", known.parts, planned.parts),
            ("shard_rows", known.shard_rows, planned.shard_rows), ("length", known.length, planned.length),
        ) if before != now
    ]  # fmt: skip
    if differences:
        raise StoreError(
            f"{folder} holds another store ({'; '.join(differences)}). Give another folder, or replace it "
            "by overwrite=true (in Python: resume=False)."
        )
    forget(known, broken_files(folder, known, "full"))
    return known


def forget(manifest: Manifest, files: Collection[str]) -> None:
    """Mark files as not written."""
    manifest.ids = "" if IDS in files else manifest.ids
    for shard in manifest.shards:
        shard.checksum = None if shard.file in files else shard.checksum


def broken_files(folder: Path, manifest: Manifest, verify: str) -> dict[str, str]:
    """The files that are not what the manifest says, and why: by size ("quick") or checksum ("full")."""
    columns, found = manifest.columns, {}
    wanted = [(shard.file, size_of(columns, shard.rows), shard.checksum) for shard in manifest.shards]
    for file, size, known in [(IDS, size_of(ID_COLUMN, manifest.samples), manifest.ids), *wanted]:
        path = folder / file
        if not known:
            found[file] = "was not made yet"
        elif not path.is_file():
            found[file] = "is missing"
        elif path.stat().st_size != size:
            found[file] = f"has {path.stat().st_size} bytes instead of {size}"
        elif (verify == "full" or file == IDS) and checksum(path) != known:
            found[file] = "does not have its checksum"
    return found


def fill(folder: Path, manifest: Manifest, teacher: Teacher, parts: Sequence[Part], task: Task, batch_size: int,
         progress: Progress | None = None) -> list[str]:  # fmt: skip
    """Make every pending shard (and the ids), recording each when it is written; returns the names of the files."""
    columns, rows = manifest.columns, manifest.shard_rows
    pending = [number for number, shard in enumerate(manifest.shards) if shard.checksum is None]
    if not pending and manifest.ids:
        return []
    needed = measure(manifest, folder)
    if needed.bytes > needed.free:
        raise StoreError(
            f"The store needs {needed} in {folder}. Make room, or keep less: top_k=, dtype='float16', fewer taps or parts."
        )
    done = manifest.rows - needed.rows
    written: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not manifest.ids:
            manifest.ids = write_columns(folder / IDS, ID_COLUMN, {"ids": torch.cat([part.ids for part in parts])})
            written.append(IDS)
        manifest.write(folder)
        for number in pending:
            shard = manifest.shards[number]
            begin = number * rows
            arrays = {c.name: torch.empty((shard.rows, *c.shape), dtype=c.dtype) for c in columns}
            for chunk in chunks(manifest.parts, begin, begin + shard.rows, batch_size):
                batch = parts[chunk.part].batch(chunk.positions, view=chunk.view)
                made = _encode(manifest, read_signals(teacher, batch, list(manifest.signals), task), batch.ids)
                for name, array in made.items():
                    arrays[name][chunk.begin - begin : chunk.end - begin] = array
                done += len(batch)
                if progress is not None:
                    progress(done, manifest.rows)
            shard.checksum = write_columns(folder / shard.file, columns, arrays)
            manifest.write(folder)
            written.append(shard.file)
    except OSError as error:
        whole = sum(shard.checksum is not None for shard in manifest.shards)
        raise StoreError(
            f"Could not write the store {folder}: {error.strerror or error}. {whole} of {len(manifest.shards)} shards are "
            f"whole and kept; make room ({measure(manifest, folder).bytes / 1e6:,.1f} MB are missing), then run the same "
            "command again."
        ) from error
    return written


def read_signals(teacher: Teacher, batch: Batch, taps: Sequence[str], task: Task) -> dict[str, Any]:
    """The signals that were asked for, of one batch, where the teacher lies. Raises SignalError where one is missing."""
    device = next((p.device for module in teacher.modules() for p in module.parameters()), torch.device("cpu"))
    while True:
        try:
            with torch.no_grad():
                found = teacher.read(batch.to(device), taps, task)
            break
        except ChangedInPlace as error:
            if not hasattr(teacher, "clone") or error.tap in teacher.clone:
                raise
            teacher.clone.add(error.tap)
    missing = [tap for tap in taps if tap not in found and "*" not in tap]
    if missing:
        raise SignalError(f"The teacher gives no signal {missing[0]!r}.{nearest(missing[0], found)}")
    # a pattern gives signals under their full names
    return {name: value for name, value in found.items() if name in taps or name not in task.outputs}


def _encode(manifest: Manifest, signals: dict[str, Any], ids: Tensor) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    for name, signal in manifest.signals.items():
        value = signals[name]
        if tuple(value.shape) != (len(ids), *signal.shape):
            raise StoreError(
                f"The signal {name!r} has the shape {list(value.shape)} for {len(ids)} samples; those before had "
                f"{list(signal.shape)} each. A store keeps rows of one length: pad all inputs alike, or tap what has a "
                "fixed size (pooled features, logits of a class token)."
            )
        made = signal.encode(value)
        check_values(name, signal, value, made, ids)
        arrays.update({column.name: array for column, array in zip(signal.columns(name), made, strict=True)})
    return arrays
