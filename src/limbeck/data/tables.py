"""CSV, JSONL, JSON and Parquet files: which column is the label, which are texts or features, and what is wrong in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck._optional import need
from limbeck.data.raw import Raw
from limbeck.errors import DataError, nearest

LABELS = ("label", "labels", "target", "class", "y")
TEXTS = ("text", "sentence", "document", "content", "review", "question", "query", "utterance")
ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
MOST_CATEGORIES = 20  # a column of strings with more values is no category


def read_frame(path: Path) -> Any:
    """A pandas frame from a file. Raises DataError for an empty or unreadable one."""
    pandas = need("pandas", "tables")
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        if path.suffix == ".parquet":
            frame = pandas.read_parquet(path)
        elif path.suffix in (".jsonl", ".json"):
            frame = pandas.read_json(path, lines=path.suffix == ".jsonl")
        else:
            frame = pandas.read_csv(path, sep=separator)
            _check_header(path, separator)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(path)!r} is not written in UTF-8: {error}. Convert it, for example by: iconv -f latin1 -t utf-8."
        ) from error
    except Exception as error:  # each reader has errors of its own
        where = _bad_line(path) if path.suffix == ".jsonl" else ""
        raise DataError(f"{str(path)!r} could not be read as {path.suffix[1:]}{where}: {error}") from error
    if not len(frame):
        raise DataError(f"{str(path)!r} has no rows.")
    return frame


def _check_header(path: Path, separator: str) -> None:
    """Raise DataError for a column that is there twice (pandas renames the second), and for another separator."""
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file, delimiter=separator), [])
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(
            f"{str(path)!r} has several columns called {', '.join(map(repr, twice))}. Rename or drop all but one."
        )
    other = next((sign for sign in ";\t|," if len(header) == 1 and sign != separator and sign in header[0]), None)
    if other is not None:
        way = "name it .tsv" if other == "\t" else f"write it with {separator!r} between them"
        raise DataError(
            f"{str(path)!r} has one column, {header[0]!r}: its columns seem to be parted by {other!r}; {way}."
        )


def _bad_line(path: Path) -> str:
    """Which line of a JSONL file is no JSON object."""
    import json

    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line) if line.strip() else None
            except json.JSONDecodeError:
                return f" (line {number})"
    return ""


def frame_to_raw(frame: Any, *, label: str | None, text: str | None, features: Sequence[str] | None, name: str,
                 needs_label: bool = True) -> Raw:  # fmt: skip
    """A frame as raw samples. Columns that are not there: DataError with the nearest name."""
    columns = [str(column) for column in frame.columns]
    features = [features] if isinstance(features, str) else None if features is None else list(features)
    if features == []:
        raise DataError(f"{name}: features=[] names no column. Choose some of: {', '.join(columns)}.")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise DataError(f"{name} has several columns called {', '.join(map(repr, twice))}. Rename or drop all but one.")
    for given in filter(None, [label if needs_label else None, text, *(features or [])]):
        if given not in columns:
            raise DataError(f"{name} has no column {given!r}.{nearest(given, columns)}")
    label = label if label in columns else next((one for one in LABELS if label is None and one in columns), None)
    if label is None and needs_label:
        raise DataError(
            f"{name} has no column that is called {', '.join(LABELS)}: say label=.{nearest('label', columns)}"
        )
    labels = None if label is None else frame[label].to_numpy()
    rest = [column for column in columns if column != label]
    if text is None and features is None:
        text = _text_column(frame, rest, name)
    if text is not None:
        column = frame[text]
        if bool(column.isna().any()):
            rows = column.isna().to_numpy().nonzero()[0]
            raise DataError(
                f"{name}: {len(rows)} of {len(column)} samples have no text in {text!r} (first rows: {rows[:5].tolist()}). "
                "Fill or drop them first."
            )
        return Raw("text", [str(value) for value in column], labels, label=label, features=[text])
    return Raw("table", frame[features or rest], labels, label=label, features=features or rest)


def _text_column(frame: Any, columns: list[str], name: str) -> str | None:
    """The one column of texts, if it is clear which: by its name, or the only one of long strings."""
    strings = [c for c in columns if frame[c].dtype == object or str(frame[c].dtype).startswith("str")]
    strings = [c for c in strings if len(frame[c]) and all(isinstance(v, str) for v in frame[c].dropna().head(50))]
    named = [c for c in TEXTS if c in strings]
    if named:
        return named[0]
    long = [c for c in strings if frame[c].nunique() > MOST_CATEGORIES and frame[c].str.len().mean() > 15]
    if len(long) > 1:
        raise DataError(f"{name} has several columns of text, {long}: say text=, or features= for a table.")
    return long[0] if long else None


class TableEncoder:
    """Columns to float32 features: numbers as they are, few-valued strings one-hot, both as the training part has them."""

    def __init__(self, frame: Any, name: str):
        self.name = name
        self.plan: list[tuple[Any, list[str] | None]] = []
        self.names: list[str] = []
        for column in frame.columns:
            values = frame[column]
            if values.dtype == object or str(values.dtype).startswith(("str", "category")):
                kinds = sorted(map(str, values.dropna().unique()))
                if len(kinds) > MOST_CATEGORIES:
                    raise DataError(
                        f"{name}: the column {column!r} holds {len(kinds)} different strings. Encode it as numbers, leave it "
                        f"out by features=, or say text={column!r} if it is what should be classified."
                    )
                self.plan.append((column, kinds))
                self.names += [f"{column}={kind}" for kind in kinds]
            else:
                self.plan.append((column, None))
                self.names.append(str(column))

    def encode(self, frame: Any) -> np.ndarray:
        """[n, features] float32. NaN and infinite values: DataError naming the column and the first rows."""
        found = []
        for column, kinds in self.plan:
            if column not in frame.columns:
                raise DataError(
                    f"{self.name}: a part has no column {column!r}.{nearest(column, map(str, frame.columns))}"
                )
            if kinds is not None:
                values = frame[column].astype(str).to_numpy()
                found += [(values == kind).astype(np.float32) for kind in kinds]
                continue
            values = frame[column].to_numpy(dtype=np.float64)
            check_finite(values[:, None], f"{self.name}: the column {column!r}")
            found.append(values.astype(np.float32))
        return np.stack(found, 1)


def check_finite(values: np.ndarray, what: str) -> None:
    """Raise DataError where a value is NaN or infinite, with the first rows."""
    bad = ~np.isfinite(values).reshape(len(values), math.prod(values.shape[1:])).all(1)
    if bad.any():
        rows = bad.nonzero()[0]
        raise DataError(
            f"{what} has NaN or infinite values in {len(rows)} of {len(values)} rows (first: {rows[:5].tolist()}). Fill or "
            "drop them first."
        )
