"""Token rows of files that are larger than memory: read in blocks, packed as they come, resumed where they stopped."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import Batch, Inputs, Part
from limbeck.data.language_encode import Encoder
from limbeck.data.language_pack import pack
from limbeck.data.language_parts import PairPart
from limbeck.data.language_read import STREAMED, Record, files_of, read_from, read_splits, split_of
from limbeck.data.language_tokens import Document
from limbeck.errors import DataError

Place = tuple[int, int]  # a file by number, and what `read_from` says of where one is in it


def read_stream(files: Sequence[Path], order: Sequence[int] | None = None, start: Place | None = None) -> Iterator[
        tuple[Record, Place]]:  # fmt: skip
    """The records of files, one after the other, each with the place behind it. `start`: the place to go on from."""
    order = range(len(files)) if order is None else order
    begin = 0 if start is None else list(order).index(start[0])
    for number in order[begin:]:
        for record, place in read_from(files[number], start[1] if start and number == start[0] else 0):
            yield record, (number, place)


def stream_files(spec: Any) -> list[Path]:
    """The files of the training part of a source. Raises DataError where they are not JSONL or Parquet files."""
    if isinstance(spec, Mapping):
        spec = spec.get("train", spec.get("training"))
    if isinstance(spec, str | Path) and Path(spec).is_dir():
        found = files_of(Path(spec), STREAMED)
        named = [file for file in found if split_of(file) == "train"]
        files = named or [file for file in found if split_of(file) is None]
    else:
        files = [Path(spec)] if isinstance(spec, str | Path) else list(spec) if isinstance(spec, list | tuple) else []
    if not files or not all(isinstance(file, str | Path) and Path(file).suffix in STREAMED for file in files):
        raise DataError(
            f"{spec!r} cannot be streamed. Expected {' or '.join(STREAMED)} files: one, a list of them, or a folder; write the "
            "data as one of these, or load them with stream=False."
        )
    return [Path(file) for file in files]


def stream_splits(spec: Any, documents: str | None) -> dict[str, list[Record]]:
    """The parts of a streamed source that are files of their own, "valid" and "test", as records."""
    if isinstance(spec, Mapping):
        rest: Any = {name: value for name, value in spec.items() if name not in ("train", "training")}
        return {
            split: records
            for split, records in read_splits({**rest, "train": [{}]}, documents).items()
            if split != "train"
        }
    if not isinstance(spec, str | Path) or not Path(spec).is_dir():
        return {}
    named = {split: [file for file in files_of(Path(spec)) if split_of(file) == split] for split in ("valid", "test")}
    return {split: read_splits(files, documents)["train"] for split, files in named.items() if files}


class TokenStream(Part):
    """A training part that is read as it is needed. It has no length and no rows to ask for: `open` gives batches.

    Records are read in blocks of `buffer`, tokenized, packed (or padded), and their rows shuffled, with the files in an order
    of their own in every pass, all by `seed`. What does not fill a batch, the emptiest rows, goes into the next block.
    `without`: places of records that are left out, those of the validation part. Ids of rows count up.
    """

    order = "stream"

    def __init__(self, files: Sequence[Path], encoder: Encoder, *, packed: bool = True, seed: int = 0, buffer: int = 4096,
                 without: frozenset[Place] | set[Place] = frozenset(), shuffle: bool = True, even: bool = False,
                 name: str = "train"):  # fmt: skip
        self.files, self.encoder, self.packed, self.seed, self.buffer = list(files), encoder, packed, seed, buffer
        self.without, self.shuffle, self.even, self.name = without, shuffle, even, name
        self.ids, self.tokenizations = torch.zeros(0, dtype=torch.int64), encoder.tokenizations
        self.left_out: Counter[str] = Counter()  # why samples gave nothing, since this object was made

    def gather(self, positions: Tensor) -> Inputs:
        raise DataError(
            f"The part {self.name!r} is a stream: it has no rows to ask for. Train with TokenSource(part, ...)."
        )

    def kinds(self) -> set[str]:
        return {"labels"}  # records without anything to predict are left out

    def describe(self) -> str:
        how, size = "packed" if self.packed else "padded", sum(file.stat().st_size for file in self.files)
        return (f"{self.name}: a stream of {len(self.files)} files ({size:,} bytes), {self.buffer} records at a time, {how} "
                f"to {self.encoder.length} tokens, seed {self.seed}")  # fmt: skip

    def open(self, batch_size: int, state: Mapping[str, Any] | None = None, passes: int | None = None) -> StreamReader:
        """Batches of `batch_size` rows from the start, or from the `state` of a reader; endless, or for some `passes`."""
        return StreamReader(self, batch_size, state, passes)


class StreamReader(Iterator[Batch]):
    """An iterator over the batches of a stream; `state_dict` says where it is.

    The state is small: the place in the files where the block began, how many of its batches were handed out, and the
    documents that the block before left over. The last batch of a pass may be smaller.
    """

    def __init__(self, stream: TokenStream, size: int, state: Mapping[str, Any] | None, passes: int | None):
        self.stream, self.size, self.passes = stream, size, passes
        self.epoch, self.block, self.done, self.rows = 0, 0, 0, 0
        self.begin: Place | None = None  # where the block begins, None for the start of the pass
        self.carry: list[tuple[int, Document]] = []
        if state is not None:
            self.epoch, self.block, self.done, self.rows = (state[key] for key in ("epoch", "block", "done", "rows"))
            self.begin = tuple(state["begin"]) if state["begin"] else None
            self.carry = [(owner, stream.encoder.restored(plain)) for owner, *plain in state["carry"]]
        self._records: Iterator[tuple[Record, Place]] | None = None
        self._made: tuple[Part | None, list[list[int]]] | None = None  # this block's rows, and its batches
        self._next: tuple[Place | None, list[tuple[int, Document]]] = None, []  # the next block's begin and carry

    def state_dict(self) -> dict[str, Any]:
        """Plain values: what `TokenStream.open` goes on from, with the batch after the last one given."""
        carry = [(owner, *document.plain()) for owner, document in self.carry]
        return {
            "epoch": self.epoch,
            "block": self.block,
            "done": self.done,
            "rows": self.rows,
            "begin": self.begin,
            "carry": carry,
        }

    def __next__(self) -> Batch:
        while True:
            if self.passes is not None and self.epoch >= self.passes:
                raise StopIteration
            part, batches = self._made = self._made or self._make()
            if part is not None and self.done < len(batches):
                positions = batches[self.done]
                self.done += 1
                batch = part.batch(positions)
                batch.ids = torch.arange(self.rows, self.rows + len(batch))
                self.rows += len(batch)
                return batch
            self._turn()

    def _turn(self) -> None:
        """On to the next block, or to the next pass."""
        self.begin, self.carry = self._next
        self.block, self.done, self._made = self.block + 1, 0, None
        if self.begin is None:
            if not self.rows:
                why = "; ".join(f"{reason} ({count})" for reason, count in self.stream.left_out.most_common())
                raise DataError(
                    f"{self.stream.describe()}: no record has anything to predict: {why or 'there is none'}."
                )
            self.epoch, self.block, self._records = self.epoch + 1, 0, None

    def _make(self) -> tuple[Part | None, list[list[int]]]:
        """The rows of this block and their batches; sets aside what the next one begins with."""
        stream, chance = self.stream, random.Random(f"{self.stream.seed} {self.epoch} {self.block}")
        if self._records is None:
            order = list(range(len(stream.files)))
            if stream.shuffle:
                random.Random(f"{stream.seed} {self.epoch}").shuffle(order)
            self._records = read_stream(stream.files, order, self.begin)
        read = list(islice(self._records, stream.buffer))
        last = len(read) < stream.buffer
        owned = self.carry + self._encode([one for one in read if one[1] not in stream.without])
        owners, documents = [owner for owner, _ in owned], [document for _, document in owned]
        paired = stream.encoder.fields.kind == "preference"
        if stream.packed:
            units = pack([len(document) for document in documents], stream.encoder.length)
        else:
            step = 2 if paired else 1
            units = [list(range(place, place + step)) for place in range(0, len(documents), step)]
        if stream.shuffle:
            chance.shuffle(units)
        kept = len(units) if last else len(units) // self.size * self.size
        if stream.packed:
            units.sort(key=lambda unit: -sum(len(documents[number]) for number in unit))
            units, rest = units[:kept], units[kept:]
            if stream.shuffle:
                chance.shuffle(units)
        else:
            units, rest = units[:kept], units[kept:]
        self._next = None if last else read[-1][1], [owned[number] for unit in rest for number in unit]
        batches = [list(range(start, min(start + self.size, kept))) for start in range(0, kept, self.size)]
        return self._part(documents, owners, units, paired) if units else None, batches

    def _part(self, documents: list[Document], owners: list[int], units: list[list[int]], paired: bool) -> Part:
        stream = self.stream
        rows = units if not paired else [[number] for unit in units for number in unit]
        part = stream.encoder.part(
            stream.name, documents, owners, ids=torch.arange(len(rows)), rows=rows, packed=stream.packed, even=stream.even,
            width=stream.encoder.length if stream.packed or stream.even else None,
        )  # fmt: skip
        return PairPart(part) if paired else part

    def _encode(self, read: Sequence[tuple[Record, Place]]) -> list[tuple[int, Document]]:
        names = [f"The record of {self.stream.files[file].name} that ends at {place}" for _, (file, place) in read]
        found = []
        for (_, (file, place)), one in zip(read, self.stream.encoder([record for record, _ in read], names)):
            if one.left_out:
                self.stream.left_out[one.left_out] += 1
            found += [(file << 40 | place, document) for document in one.documents]
        return found
