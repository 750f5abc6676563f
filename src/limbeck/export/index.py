"""An index: documents with their teacher's vectors, which the queries of its students search. NumPy is all it needs.

    write_index("runs/q/index", ids, texts, vectors, teacher=teacher.identity())
    index = open_index("runs/q/index", student="runs/q/student")    # refuses a student of another teacher
    places, scores = index.search(student.encode(["..."]), k=10)
    index.documents[places[0, 0]]                                   # {"id": ..., "text": ...}

The folder holds `manifest.json` (count, width, dtype, the teacher's hash), `documents.jsonl` and `vectors.npy`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from limbeck.disk import write_text, writing
from limbeck.errors import ArgumentError, DataError, IndexMismatchError, nearest

FORMAT = "limbeck-index"
LEVELS = 127  # of int8, on each side of 0


@dataclass
class Index:
    """Documents, their vectors [documents, width] in float32, and what the manifest says of them."""

    documents: list[dict[str, Any]]
    vectors: np.ndarray
    manifest: dict[str, Any]

    @property
    def teacher(self) -> str:
        """The hash of the teacher whose vectors these are."""
        return self.manifest["teacher"]

    def check(self, student: Any) -> None:
        """Raise IndexMismatchError unless a student (a module, or the folder of a saved one) had this index's teacher."""
        theirs = (
            _taught_by(Path(student)) if isinstance(student, str | Path) else getattr(student, "limbeck_teacher", None)
        )
        if theirs != self.teacher:
            had = f"was distilled from the teacher {theirs[:12]}..." if theirs else "does not know its teacher"
            raise IndexMismatchError(
                f"The vectors of this index are of the teacher {self.teacher[:12]}..., and the student {had}: its queries "
                "would find nothing. Search an index of its own teacher, or distil a student from this one."
            )

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """The cosine of query vectors [queries, width] to every document, [queries, documents]."""
        queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        if queries.shape[1] != self.vectors.shape[1]:
            raise IndexMismatchError(
                f"The queries have vectors of {queries.shape[1]} numbers, the documents of {self.vectors.shape[1]}."
            )
        return _unit(queries) @ self.vectors.T

    def search(self, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The places of the k nearest documents by cosine and their cosines, nearest first, both [queries, k]."""
        return best(self.scores(queries), k)


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the k largest of scores [queries, documents], and these, largest first; the first of equals first."""
    k = min(k, scores.shape[1])
    # stable, so that equal scores come in the documents' order
    near = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, near, 1), axis=1, kind="stable")
    places = np.take_along_axis(near, order, 1)
    return places, np.take_along_axis(scores, places, 1)


def write_index(folder: str | Path, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray, *, teacher: str,
                dtype: Literal["float16", "int8"] = "float16", titles: Sequence[str] | None = None,
                prompt: str = "", more: Mapping[str, Any] | None = None) -> Index:  # fmt: skip
    """Write documents and their vectors [documents, width] into a folder, and open it.

    `teacher`: the hash of the model whose vectors these are (`Teacher.identity()`). Vectors are kept with length 1, in
    float16, or in int8 with one scale for each. `titles` are shown and not searched; `prompt` is what the teacher wants
    before a query; `more`: plain values for the manifest. An index that is there is replaced. Raises ArgumentError where
    counts differ, DataError for vectors that are not finite.
    """
    folder, vectors = Path(folder), np.asarray(vectors, dtype=np.float32)
    counts = {"ids": len(ids), "texts": len(texts), "vectors": len(vectors)}
    counts |= {} if titles is None else {"titles": len(titles)}
    if len(set(counts.values())) > 1 or vectors.ndim != 2 or not len(ids):
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ArgumentError(
            f"An index wants as many ids and texts as vectors [documents, width], 1 or more; given {told}."
        )
    if len(set(ids)) < len(ids):
        raise ArgumentError(f"{len(ids) - len(set(ids))} ids of documents are there twice.")
    if dtype not in ("float16", "int8"):
        raise ArgumentError(f"dtype={dtype!r}.{nearest(dtype, ['float16', 'int8'])}")
    if not np.isfinite(vectors).all():
        raise DataError(f"{int((~np.isfinite(vectors).all(1)).sum())} vectors hold numbers that are not finite.")
    rows = _unit(vectors)
    if dtype == "int8":  # the cosine is the same for any scale, so that none is kept
        largest = np.abs(rows).max(1, keepdims=True)
        rows = np.round(rows / np.where(largest > 0, largest, 1) * LEVELS)
    documents = [{"id": str(name), "text": text} for name, text in zip(ids, texts)]
    for document, title in zip(documents, titles or []):
        document["title"] = title
    manifest = {"format": FORMAT, "documents": len(ids), "width": vectors.shape[1], "dtype": dtype, "teacher": teacher,
                "prompt": prompt, **(more or {})}  # fmt: skip
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)  # written last: until then there is no index
        aside = folder / "vectors.tmp.npy"
        np.save(aside, rows.astype(dtype))
        os.replace(aside, folder / "vectors.npy")
    write_text(folder / "documents.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents))
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return open_index(folder)


def open_index(folder: str | Path, student: Any = None) -> Index:
    """Read an index; with a `student` (a module, or the folder of a saved one), check that both had the same teacher.

    Raises DataError where there is no whole index, IndexMismatchError for a student of another teacher.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise DataError(f"There is no index in {str(folder)!r} (no manifest.json). `write_index` makes one.")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise DataError(f"{str(folder)!r} is no index: its manifest is of {manifest.get('format')!r}.")
        lines = (folder / "documents.jsonl").read_text(encoding="utf-8").split("\n")
        documents = [json.loads(line) for line in lines if line]
        rows = np.load(folder / "vectors.npy", allow_pickle=False)
        wanted = (manifest["documents"], manifest["width"])
    except (OSError, ValueError, AttributeError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"The index in {str(folder)!r} cannot be read ({error}). Write it again.") from error
    if rows.shape != wanted or len(documents) != len(rows):
        raise DataError(
            f"The index in {str(folder)!r} is not whole: {len(documents)} documents, vectors {list(rows.shape)}, and the "
            f"manifest says {wanted[0]} and {wanted[1]}. Write it again."
        )
    # float32: NumPy multiplies half precision and bytes much slower
    index = Index(documents, _unit(rows.astype(np.float32)), manifest)
    if student is not None:
        index.check(student)
    return index


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _taught_by(folder: Path) -> str | None:
    """The hash of the teacher that a saved student had; None where none is written down."""
    for name in ("limbeck.json", "config.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8")).get("teacher")
    raise DataError(f"There is no saved student in {str(folder)!r}.")
