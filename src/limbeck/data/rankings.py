"""Rows to rank: a query and candidate documents, the first of them the one that answers it; scores of a teacher beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import Data, Part
from limbeck.data.language_read import read_splits
from limbeck.data.splits import Size, hold_out
from limbeck.data.texts import load_benches, text_id
from limbeck.errors import ArgumentError, DataError, nearest

QUERY = ("query", "question", "sentence1", "first")
POSITIVE = ("positive", "answer", "sentence2", "second")
NEGATIVE = ("negative", "negatives")
MANY = ("documents", "candidates", "passages")
SCORES = ("scores", "teacher_scores")
GRADES = ("grades", "labels", "relevance")
RATING = ("rating", "score")
DOMAIN = "Expected query and documents (a list, the answer first), or query, positive and negative; and scores, if there are."


class RankingPart(Part):
    """Queries with equally many candidates each, handed out as {"query": [batch], "documents": [batch x candidates]}.

    `scores` [rows, candidates] are a teacher's, NaN-free, or None. The label of every row is 0: its first candidate.
    """

    def __init__(self, name: str, queries: Sequence[str], documents: Sequence[Sequence[str]], scores: Tensor | None = None,
                 ids: Tensor | None = None):  # fmt: skip
        self.name, self.queries, self.documents, self.scores = (
            name,
            list(queries),
            [list(row) for row in documents],
            scores,
        )
        self.candidates = len(self.documents[0]) if self.documents else 0
        keys = ["\x1f".join([query, *row]) for query, row in zip(self.queries, self.documents, strict=True)]
        self.ids = torch.tensor([text_id(key) for key in keys], dtype=torch.int64) if ids is None else ids
        self.labels = torch.zeros(len(self.queries), dtype=torch.int64)

    def gather(self, positions: Tensor) -> dict[str, list[str]]:
        places = positions.tolist()
        return {
            "query": [self.queries[i] for i in places],
            "documents": [text for i in places for text in self.documents[i]],
        }

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return {} if self.scores is None else {"scores": self.scores[positions]}

    def kinds(self) -> set[str]:
        return super().kinds() | {"pairs"}

    def pairs(self, scores: Tensor | None = None, both_orders: bool = False) -> RankingPart:
        """A row for each candidate with its query; `scores` [rows, candidates] with them; `both_orders`: turned round too."""
        queries = [query for query, texts in zip(self.queries, self.documents) for _ in texts]
        documents = [text for texts in self.documents for text in texts]
        flat = None if scores is None else scores.reshape(-1, 1)
        if both_orders:
            queries, documents = queries + documents, documents + queries
            flat = None if flat is None else flat.repeat(2, 1)
        return RankingPart(self.name, queries, [[text] for text in documents], flat)

    def take(self, positions: Tensor, name: str) -> RankingPart:
        """Some of the rows."""
        places = positions.tolist()
        return RankingPart(name, [self.queries[i] for i in places], [self.documents[i] for i in places],
                           None if self.scores is None else self.scores[positions], self.ids[positions])  # fmt: skip


def load_rankings(spec: Any, *, sts: Any = None, retrieval: Any = None, prompts: Any = None, valid: Size = 0,
                  test: Size = 0.05, seed: int = 0, **other: Any) -> Data:  # fmt: skip
    """Rows from a file, a folder, a list of dicts, or a mapping from split to these.

    Columns: query and documents (a list, the answer first), or query, positive and negative (a text or a list of them);
    and scores, a number of a teacher for each candidate. With `grades` (`labels`, `relevance`), how relevant each of the
    documents is, these may come in any order: the most relevant is taken for the answer. Rows that are there twice, or have
    an empty text, are left out and counted. `sts` and `retrieval`: what rankers are measured on, as in
    `limbeck.data.texts.load_texts`. Raises DataError for rows of different numbers of candidates and for scores that are
    missing or no numbers.
    """
    for key, value in other.items():
        if value is not None:
            raise ArgumentError(f"{key}={value!r} means nothing for rows to rank. Leave it out.")
    if prompts is not None:
        raise ArgumentError("prompts= is for vectors; write a query's prompt into the rows.")
    name = str(spec) if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"
    warnings: list[str] = []
    parts: dict[str, Part] = {
        split: _part(split, rows, name, warnings) for split, rows in read_splits(spec).items()
    }  # fmt: skip
    widths = {part.candidates for part in parts.values() if isinstance(part, RankingPart)}
    if len(widths) > 1:
        raise DataError(f"{name}: its parts have {sorted(widths)} candidates a query. Give all the same number.")
    made = hold_out(parts, {"test": test, "valid": valid}, seed, warnings)
    benches = load_benches(sts, retrieval, warnings)
    about = {
        "source": name, "kind": "text", "target": "none", "warnings": warnings, "labelled": len(parts["train"]),
        "candidates": widths.pop(), "scores": getattr(parts["train"], "scores", None) is not None,
        "split": {"seed": seed, "made": made, "sizes": {split: len(part) for split, part in parts.items()}},
    }  # fmt: skip
    ordered: dict[str, Part] = {split: parts[split] for split in ("train", "valid", "test") if split in parts}
    short = Path(spec).stem if isinstance(spec, str | Path) else "rankings"
    return Data(short, "text", ordered, "none", about=about, benches=benches)


def _part(split: str, rows: Sequence[Mapping[str, Any]], name: str, warnings: list[str]) -> RankingPart:
    queries: list[str] = []
    documents: list[list[str]] = []
    scores: list[list[float]] = []
    seen: set[tuple[str, ...]] = set()
    empty = twice = 0
    columns = _columns(rows[0], name)
    for number, row in enumerate(rows):
        query, texts, values = _row(row, columns, f"{name}, row {number} of {split!r}")
        key = (query, *texts)
        if not all(text.strip() for text in key):
            empty += 1
        elif key in seen:
            twice += 1
        else:
            if documents and len(texts) != len(documents[0]):
                raise DataError(
                    f"{name}, row {number} of {split!r}: {len(texts)} candidates, and the rows before have "
                    f"{len(documents[0])}. Give every query the same number, by leaving out negatives or drawing more."
                )
            seen.add(key)
            queries.append(query)
            documents.append(texts)
            scores.append(values)
    for count, what in ((empty, "have an empty query or document"), (twice, "were there before")):
        if count:
            warnings.append(f"{count} of {len(rows)} rows of {split!r} {what}; they are left out.")
    if not queries:
        raise DataError(f"{name}: no row of {split!r} is left ({empty} have an empty text, {twice} were there before).")
    found = torch.tensor(scores, dtype=torch.float32) if columns.get("scores") else None
    return RankingPart(split, queries, documents, found)


def read_ratings(spec: Any, low: float, high: float) -> RankingPart:
    """Pairs of texts that people rated from `low` to `high`: query, positive (or first and second, ...), and rating or score.

    Raises DataError for rows without a rating, and for ratings beyond the scale.
    """
    name = str(spec) if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"
    rows = read_splits(spec)["train"]
    columns = _columns(rows[0], name, RATING)
    if "scores" not in columns or "documents" in columns:
        raise DataError(
            f"{name} has the columns {', '.join(rows[0])}. Expected two texts, and a rating for each pair of them."
        )
    found = [_row(row, {key: columns[key] for key in ("query", "positive", "scores")}, f"{name}, row {number}")
             for number, row in enumerate(rows)]  # fmt: skip
    beyond = sum(not low <= scores[0] <= high for _, _, scores in found)
    if beyond:
        raise DataError(
            f"{beyond} of {len(found)} ratings of {name} lie beyond {low:g} to {high:g}: say low= and high=."
        )
    return RankingPart("ratings", [query for query, _, _ in found], [texts for _, texts, _ in found],
                       torch.tensor([scores for _, _, scores in found]))  # fmt: skip


def _columns(row: Mapping[str, Any], name: str, scores: tuple[str, ...] = SCORES) -> dict[str, str]:
    have = list(row)
    known = {"query": QUERY, "positive": POSITIVE, "negative": NEGATIVE, "documents": MANY, "scores": scores,
             "grades": GRADES}  # fmt: skip
    found = {role: next((one for one in names if one in have), None) for role, names in known.items()}
    if found["query"] is None or (found["documents"] is None and found["positive"] is None):
        raise DataError(f"{name} has the columns {', '.join(have)}. {DOMAIN}{nearest('query', have) if have else ''}")
    return {role: column for role, column in found.items() if column is not None}


def _row(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> tuple[str, list[str], list[float]]:
    def texts(role: str) -> list[str]:
        value = row.get(columns[role]) if role in columns else []
        return [value] if isinstance(value, str) else ["" if text is None else str(text) for text in value or [""]]

    query = row.get(columns["query"])
    documents = texts("documents") if "documents" in columns else [*texts("positive")[:1], *(
        texts("negative") if "negative" in columns else [])]  # fmt: skip

    def numbers(role: str) -> list[float]:
        given = row.get(columns[role])
        values = [given] if isinstance(given, int | float) else list(given) if given is not None else []
        if len(values) != len(documents) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise DataError(
                f"{where}: {values} are its {role}; expected {len(documents)} numbers, one for each candidate."
            )
        return [float(value) for value in values]

    values = numbers("scores") if "scores" in columns else []
    if "grades" in columns and "documents" in columns:  # the most relevant first: it is the answer
        grades = numbers("grades")
        order = sorted(range(len(documents)), key=lambda place: -grades[place])
        documents, values = [documents[place] for place in order], [values[place] for place in order if values]
    return "" if query is None else str(query), documents, values
