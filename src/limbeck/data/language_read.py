"""Records (dicts) of texts, prompts and responses, chats or preferences, from files, folders and Python objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck._optional import need
from limbeck.data.raw import SPLITS
from limbeck.errors import ArgumentError, DataError, nearest

Record = dict[str, Any]
ENDINGS = (".txt", ".jsonl", ".json", ".parquet", ".csv", ".tsv")
STREAMED = (".jsonl", ".parquet")
DOCUMENTS = ("blank", "file", "line")

# how columns are called, the first that is there is taken
COLUMNS = {
    "messages": ("messages", "conversations", "conversation", "chat", "dialog", "dialogue"),
    "chosen": ("chosen",), "rejected": ("rejected",),
    "prompt": ("prompt", "question", "instruction", "query", "problem", "input"),
    "response": ("response", "completion", "answer", "output", "solution"),
    "context": ("input", "context"),
    "text": ("text", "content", "document", "sentence"),
}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """What the records hold. `kind`: "chat", "preference", "pair" or "text"; `columns`: which column holds what."""

    kind: str
    columns: Mapping[str, str]


def find_fields(columns: Iterable[str], name: str, **named: str | None) -> Fields:
    """The kind of records and their columns, from the columns there are and those that are named.

    Raises DataError for a named column that is not there, and for columns of which none is known.
    """
    have = list(map(str, columns))
    for role, column in named.items():
        if column is not None and column not in have:
            raise DataError(f"{name} has no column {column!r} ({role}=).{nearest(column, have)}")
    asked = {role for role, column in named.items() if column is not None}

    def find(role: str, *taken: str | None) -> str | None:
        known = (column for column in COLUMNS[role] if column in have and column not in taken)
        return named.get(role) or next(known, None)

    messages, chosen, rejected, text = find("messages"), find("chosen"), find("rejected"), find("text")
    prompt, response = find("prompt"), find("response")
    context = None if "prompt" in asked else find("context", prompt, response)
    kinds: dict[str, dict[str, str | None]] = {
        "preference": {"chosen": chosen, "rejected": rejected}, "chat": {"messages": messages},
        "pair": {"prompt": prompt, "response": response}, "text": {"text": text},
    }  # fmt: skip
    if asked & {"prompt", "response"}:
        kinds = {kind: kinds[kind] for kind in ("preference", "pair")}
    elif asked:
        kinds = {kind: found for kind, found in kinds.items() if asked & set(found)}
    for kind, found in kinds.items():
        if all(found.values()):
            extra = {"prompt": prompt} if kind == "preference" else {"context": context} if kind == "pair" else {}
            return Fields(kind, {role: column for role, column in {**found, **extra}.items() if column})
    if prompt and have and asked <= {"prompt"}:
        raise DataError(
            f"{name} has prompts ({prompt}) and no responses: it has the columns {', '.join(have)}. Training and validation "
            "need a response to each prompt: add a column response, or name the one that holds it: response=. Where only "
            "a text is meant: text=COLUMN."
        )
    raise DataError(
        f"{name} has the columns {', '.join(have) or 'none'}. Expected text; prompt and response (or question and answer, "
        "instruction and output); messages; or prompt, chosen and rejected. Name them: text=, prompt=, response=, messages=."
    )


def read_splits(spec: Any, documents: str | None = None) -> dict[str, list[Record]]:
    """The records of every split ("train", "valid", "test") of a source. See `load_language_data` for what it may be.

    Raises DataError for what cannot be read, or holds nothing.
    """
    if documents is not None and documents not in DOCUMENTS:
        raise ArgumentError(f"documents={documents!r}.{nearest(documents, DOCUMENTS)}")
    if type(spec).__module__.split(".")[0] == "datasets":
        return _checked(_hub_object(spec), "the data set")
    if isinstance(spec, Mapping):
        found = {}
        for name, value in spec.items():
            if SPLITS.get(str(name)) not in ("train", "valid", "test"):
                raise DataError(f"A part is called {name!r}.{nearest(str(name), ('train', 'valid', 'test'))}")
            found[SPLITS[str(name)]] = read_splits(value, documents)["train"]
        return _checked(found, "the mapping")
    if isinstance(spec, str | Path):
        return _checked(_path(Path(spec), str(spec), documents), str(spec))
    if hasattr(spec, "columns") and hasattr(spec, "to_dict"):
        return _checked({"train": spec.to_dict("records")}, "the frame")
    if isinstance(spec, Sequence):
        return _checked({"train": _listed(spec, documents)}, "the list")
    raise DataError(
        f"Language data of type {type(spec).__name__}: expected a file ({', '.join(ENDINGS)}), a folder of such files, a "
        "list of texts, of dicts or of chats, a frame, a `datasets` object, or a mapping from split to these."
    )


def _checked(splits: dict[str, list[Record]], name: str) -> dict[str, list[Record]]:
    if "train" not in splits:
        raise DataError(f"{name} has no training part, only {sorted(splits)}.")
    for split, records in splits.items():
        if not records:
            raise DataError(
                f"The part {split!r} of {name} is empty: there is no record in it. Look at the file, or give another data=."
            )
    return splits


def _listed(spec: Sequence[Any], documents: str | None) -> list[Record]:
    if all(isinstance(item, str) for item in spec):
        return [{"text": item} for item in spec]
    if all(isinstance(item, Path) for item in spec):
        return [record for path in spec for record in read_file(path, documents)]
    if all(isinstance(item, Mapping) for item in spec):
        return [dict(item) for item in spec]
    if all(isinstance(item, list | tuple) for item in spec):
        return [{"messages": item} for item in spec]
    kinds = sorted({type(item).__name__ for item in spec})
    raise DataError(f"A list of {', '.join(kinds)}: expected texts, dicts, chats or paths, of one kind.")


def _path(path: Path, name: str, documents: str | None) -> dict[str, list[Record]]:
    if path.is_file():
        return {"train": list(read_file(path, documents))}
    if not path.is_dir():
        if path.suffix in ENDINGS or path.is_absolute() or name.startswith("."):
            raise DataError(f"{name!r}: there is no such file or folder.")
        return _hub(name)
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return _hub_object(need("datasets", "hub").load_from_disk(str(path)))
    found: dict[str, list[Record]] = {}
    for file in files_of(path):
        if split := split_of(file):
            found.setdefault(split, []).extend(read_file(file, documents))
    # a folder without files called after the splits is one set of documents
    return found or {"train": [record for file in files_of(path) for record in read_file(file, documents or "file")]}


def split_of(file: Path) -> str | None:
    """The split that a file is called after: train.jsonl, validation-00000-of-00002.parquet."""
    found = re.fullmatch(r"([a-z]+)([-_.]\d.*)?", file.stem.lower())
    split = SPLITS.get(found[1]) if found else None
    return split if split != "unlabelled" else None


def files_of(path: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files of a folder that can be read, by name. Raises DataError where there is none."""
    found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in endings)
    if not found:
        raise DataError(f"{str(path)!r} holds none of the files that can be read here: {', '.join(endings)}.")
    return found


def read_file(path: Path, documents: str | None = None) -> Iterator[Record]:
    """The records of a file. Numbers and words in a CSV stay the text they are."""
    if path.suffix in STREAMED:
        yield from (record for record, _ in read_from(path, 0))
        return
    try:
        if path.suffix == ".txt":
            yield from ({"text": text} for text in split_text(path.read_text(encoding="utf-8"), documents or "blank"))
        elif path.suffix == ".json":
            body = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(body, list):
                raise DataError(
                    f"{str(path)!r} holds a {type(body).__name__}. Expected a list, or JSON lines (.jsonl)."
                )
            yield from _listed(body, documents)
        elif path.suffix in (".csv", ".tsv"):
            separator = "\t" if path.suffix == ".tsv" else ","
            frame = need("pandas", "tables").read_csv(path, sep=separator, dtype=str, keep_default_na=False)
            yield from frame.to_dict("records")
        else:
            raise DataError(f"{str(path)!r}: language data are read from {', '.join(ENDINGS)} files.")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(path)!r} could not be read as {path.suffix[1:]}: {error}") from error


def split_text(text: str, documents: str) -> list[str]:
    """The documents of a text: between "blank" lines, every "line", or the "file" as one. Empty ones are no documents."""
    pattern = {"blank": r"\n[ \t]*\n", "line": r"\n"}.get(documents)
    pieces = [text] if pattern is None else re.split(pattern, text.replace("\r\n", "\n"))
    return [piece.strip("\n") for piece in pieces if piece.strip()]


def read_from(path: Path, place: int) -> Iterator[tuple[Record, int]]:
    """The records of a JSONL or Parquet file from a place on, each with the place behind it, read as they are needed.

    A place is a byte (JSONL) or a row (Parquet), 0 the start. Raises DataError for a line that is no JSON object.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, place)
            return
        with path.open("rb") as file:
            file.seek(place)
            while line := file.readline():
                if line.strip():
                    try:
                        record = json.loads(line)
                    except ValueError as error:
                        where = f"line {_line_number(path, file.tell())} is no JSON"
                        raise DataError(f"{str(path)!r} could not be read as jsonl: {where}: {error}") from error
                    if not isinstance(record, dict):
                        raise DataError(f"{str(path)!r}: expected a JSON object a line, found {line[:60]!r}.")
                    yield record, file.tell()
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} could not be read as {path.suffix[1:]}: {error}") from error


def _line_number(path: Path, end: int) -> int:
    """The number, from 1 on, of the line that ends at a byte of a file."""
    with path.open("rb") as file:
        return len(file.read(end).splitlines())


def _parquet(path: Path, place: int) -> Iterator[tuple[Record, int]]:
    file = need("pyarrow.parquet", "tables").ParquetFile(path)
    groups, start = list(range(file.num_row_groups)), 0
    while groups and start + file.metadata.row_group(groups[0]).num_rows <= place:
        start += file.metadata.row_group(groups.pop(0)).num_rows
    for batch in file.iter_batches(batch_size=1024, row_groups=groups) if groups else ():
        for record in batch.slice(max(0, place - start)).to_pylist():
            place += 1
            yield record, place
        start += len(batch)


def _hub_object(value: Any) -> dict[str, list[Record]]:
    splits = dict(value) if hasattr(value, "keys") else {"train": value}
    found = {SPLITS.get(name, ""): list(split) for name, split in splits.items()}
    if "train" not in found:
        raise DataError(
            f"The data set has the splits {', '.join(splits)}. Say which is which: {{'train': data['...'], ...}}."
        )
    return {split: found[split] for split in ("train", "valid", "test") if split in found}


def _hub(name: str) -> dict[str, list[Record]]:
    path, _, config = name.partition(":")
    try:
        loaded = need("datasets", "hub").load_dataset(path, config or None)
    except Exception as error:  # the library's errors are many; all mean that it could not be had
        raise DataError(
            f"There are no language data called {name!r}: no such file or folder here, and the `datasets` library could not "
            f"load it ({type(error).__name__}: {error})."
        ) from error
    return _hub_object(loaded)
