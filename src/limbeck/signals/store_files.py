"""The files of a signal store: shards, and the manifest that says what they hold.

    stores/x/manifest.json                  what, of whom, for which samples; every shard with its checksum
    stores/x/ids.safetensors                ids [samples] int64, part after part
    stores/x/shard-00000.safetensors        the columns of `shard_rows` rows; any safetensors reader opens it

A row is one (sample, view). An augmented part has a segment of all its views, and, unless one of them is the sample as it
is, another of its samples as they are; a part without augmentation has the latter only. The row of a sample's view is:
first row of the segment + index of the sample in its part * views + view.
Files are written aside, synced and renamed; the manifest records a shard only after that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from limbeck.disk import sync
from limbeck.errors import StoreError
from limbeck.signals.store_encode import DTYPES, Column, Signal

FORMAT, VERSION = "limbeck-signals", 1
MANIFEST, IDS = "manifest.json", "ids.safetensors"
ANEW = "Restore it, or store the signals anew, in another folder."


@dataclass
class Shard:
    """One file. `checksum` is the xxh3_128 of its bytes, None while it is not written."""

    file: str
    rows: int
    checksum: str | None = None


@dataclass(frozen=True)
class StoredPart:
    """A part of the data. `inputs` and `augmentation` are hashes (see store_data); `views` is 0 without augmentation.

    `identity` is the view that is the sample as it is, None where there is no such view.
    """

    name: str
    samples: int
    views: int
    inputs: str
    augmentation: str | None = None
    identity: int | None = None

    @property
    def rows(self) -> int:
        return self.samples * (self.views + (self.identity is None))


@dataclass
class Manifest:
    """What a store holds, of which teacher, for which data."""

    teacher: str
    data: str
    task: str
    signals: dict[str, Signal]
    parts: list[StoredPart]
    ids: str  # checksum of the file of ids
    batch_size: int
    shard_rows: int
    shards: list[Shard] = field(default_factory=list)
    lost: dict[str, dict[str, float]] = field(default_factory=dict)  # by compression, see `store_levels.lost`
    length: int | None = None  # tokens of a text that the teacher read, where that was bounded (`Task.length`)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)

    @property
    def columns(self) -> list[Column]:
        return [column for name, signal in self.signals.items() for column in signal.columns(name)]

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder, whole or not at all."""
        plain = asdict(self)
        plain["teacher"], plain["data"] = {"hash": self.teacher}, {"name": self.data}
        plain["signals"] = {name: signal.describe() for name, signal in self.signals.items()}
        plain["ids"] = {"file": IDS, "checksum": self.ids}
        plain["shards"] = [{**asdict(shard), "state": "done" if shard.checksum else "pending"} for shard in self.shards]
        plain = {"format": FORMAT, "version": VERSION, "rows": self.rows, **plain}
        replace_file(folder / MANIFEST, [json.dumps(plain, indent=1).encode()])

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises StoreError where there is none, or it cannot be understood."""
        try:
            plain = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            raise StoreError(
                f"There is no signal store in {folder} (no {MANIFEST}): make one with store_signals."
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder / MANIFEST} cannot be read: {error}. {ANEW}") from error
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise StoreError(f"{folder / MANIFEST} is not of a signal store: its format is not {FORMAT!r}.")
        if plain.get("version") != VERSION:
            raise StoreError(
                f"The store {folder} has version {plain.get('version')!r} of the format; this Limbeck reads {VERSION}. "
                f"Read it with the Limbeck that wrote it. {ANEW}"
            )
        try:
            return cls(
                plain["teacher"]["hash"], plain["data"]["name"], plain["task"],
                {name: Signal.read(signal) for name, signal in plain["signals"].items()},
                [StoredPart(**part) for part in plain["parts"]], plain["ids"]["checksum"], plain["batch_size"],
                plain["shard_rows"], [Shard(s["file"], s["rows"], s["checksum"]) for s in plain["shards"]],
                plain.get("lost", {}), plain.get("length"),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise StoreError(f"{folder / MANIFEST} is incomplete ({error}). {ANEW}") from error


# one safetensors file
def layout(columns: Sequence[Column], rows: int) -> tuple[bytes, dict[str, int]]:
    """The header of a file with these columns, and where in the file each column begins.

    Written here and not by safetensors, so that equal content gives equal bytes and a full disk is an OSError.
    """
    ordered = sorted(columns, key=lambda column: (-column.dtype.itemsize, column.name))  # so that all are aligned
    entries, begins, begin = {}, {}, 0
    for column in ordered:
        kind, end = DTYPES[column.dtype][1], begin + rows * column.width
        entries[column.name] = {"dtype": kind, "shape": [rows, *column.shape], "data_offsets": [begin, end]}
        begins[column.name], begin = begin, end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in begins.items()}


def size_of(columns: Sequence[Column], rows: int) -> int:
    """Bytes of a file with these columns."""
    return len(layout(columns, rows)[0]) + rows * sum(column.width for column in columns)


def write_columns(path: Path, columns: Sequence[Column], arrays: Mapping[str, Tensor]) -> str:
    """Write arrays, [rows, *shape] by column name, as a safetensors file; returns its checksum."""
    header, begins = layout(columns, len(arrays[columns[0].name]))
    return replace_file(path, [header, *(raw(arrays[name]) for name in begins)])


def replace_file(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """Write a file aside, sync it and rename it: it is there whole or not at all. Returns its checksum."""
    aside, digest = path.with_name(path.name + ".tmp"), xxhash.xxh3_128()
    try:
        with open(aside, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def checksum(path: Path) -> str:
    """xxh3_128 of a file."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def map_columns(path: Path, columns: Sequence[Column], rows: int) -> dict[str, Tensor]:
    """The columns of a file as bytes [rows, width] uint8, memory-mapped, in a private mapping that holds no descriptor.

    Raises StoreError when the file is not the one that `layout` describes.
    """
    header, begins = layout(columns, rows)
    size = size_of(columns, rows)
    try:
        found = path.stat().st_size
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if found == size else None
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if mapped is None or bytes(mapped[: len(header)].numpy()) != header:
        raise StoreError(f"{path} is not the file that the manifest describes ({found} bytes, expected {size}).")
    return {c.name: mapped[begins[c.name] : begins[c.name] + rows * c.width].view(rows, c.width) for c in columns}


def raw(array: Tensor) -> memoryview:
    """The bytes of a tensor, row-major."""
    return array.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
