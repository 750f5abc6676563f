"""Texts to learn vectors from, and what vectors are measured on: pairs with a similarity, queries with judged documents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.data import tables
from limbeck.data.base import Data, Part, TextPart
from limbeck.data.language_read import read_splits
from limbeck.data.prefixes import prefix_warnings
from limbeck.data.splits import Size, hold_out
from limbeck.data.translations import SOURCES, TranslatedPart, translated_part, translation_column
from limbeck.errors import ArgumentError, DataError, nearest

PAIR = {
    "first": ("sentence1", "first", "text1", "a"), "second": ("sentence2", "second", "text2", "b"),
    "score": ("score", "similarity", "relatedness", "label"),
}  # fmt: skip
DOCUMENT = {"id": ("doc_id", "_id", "docid", "corpus-id", "id"), "text": ("text", "contents", "body")}
QUERY = {"id": ("query_id", "_id", "qid", "query-id", "id"), "text": ("text", "query", "question")}
JUDGEMENT = {
    "query": ("query_id", "query-id", "qid"), "document": ("doc_id", "corpus-id", "docid"),
    "grade": ("grade", "score", "relevance", "label"),
}  # fmt: skip
FILES = {
    "documents": ("docs", "documents", "corpus"), "queries": ("queries",), "judgements": ("qrels", "judgements"),
}  # fmt: skip


@dataclass
class Pairs:
    """Pairs of texts with a similarity (STS)."""

    name: str
    first: list[str]
    second: list[str]
    similarity: np.ndarray  # [pairs] float


@dataclass
class Retrieval:
    """Queries, documents, and how relevant judged documents are: {query id: {document id: grade}}."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    warnings: list[str] = field(default_factory=list)


def load_texts(spec: Any, *, text: str | None = None, translation: str | None = None, sts: Any = None,
               retrieval: Any = None, prompts: Any = None, valid: Size = 0, test: Size = 0.02, seed: int = 0,
               **other: Any) -> Data:  # fmt: skip
    """Texts from a file, a folder, a list of str, or a mapping from split to these, as `Data` of kind "text".

    A text is there once: doubles are left out and counted, and so are empty texts. Its id is a hash of it, so that what was
    stored of a teacher is found again in other data. `text` names the column, `translation` that of their translations, where
    there are any ("source" and "target" are found by themselves): then a pair is there once. `sts`: pairs with a similarity, a
    table with sentence1, sentence2, score, or a mapping from name to such. `retrieval`: a folder with tables docs, queries,
    qrels (BEIR's corpus, queries, qrels/test are known too), or a mapping. `prompts`: what a teacher wants before a "query" and
    a "document"; each text is learnt with each of them. `test`: how many texts are held out.

    Raises DataError for what cannot be read, ArgumentError for options that mean nothing here.
    """
    for key, value in other.items():
        if value is not None:
            raise ArgumentError(f"{key}={value!r} means nothing for texts that get a vector. Leave it out.")
    found = {split: _texts(rows, text, translation, _name(spec)) for split, rows in read_splits(spec).items()}
    before = _prompts(prompts)
    warnings: list[str] = []
    parts: dict[str, Part] = {}
    seen: dict[str, str] = {}
    for split in ("test", "valid", "train"):  # what is held out stays out of training
        if split in found:
            parts[split] = _part(split, found[split], seen, warnings)
    made = hold_out(parts, {"test": test, "valid": valid}, seed, warnings)
    warnings += prefix_warnings(parts["train"].texts, before)  # type: ignore[attr-defined]
    parts = {name: _prompted(part, before) for name, part in parts.items()}
    benches = load_benches(sts, retrieval, warnings)
    about = {
        "source": _name(spec), "kind": "text", "target": "none", "warnings": warnings, "labelled": 0,
        "split": {"seed": seed, "made": made, "given": sorted(found),
                  "sizes": {name: len(part) for name, part in parts.items()}},
        "prompts": before, "measured on": {name: _size(bench) for name, bench in benches.items()},
    }  # fmt: skip
    ordered: dict[str, Part] = {name: parts[name] for name in ("train", "valid", "test") if name in parts}
    return Data(_short(spec), "text", ordered, "none", about=about, benches=benches)


def text_id(text: str) -> int:
    """A number from 0 to 2^63 that is the same for the same text on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def text_part(name: str, texts: Sequence[str]) -> TextPart:
    """Texts as a part, by their hashes."""
    return TextPart(name, texts, None, torch.tensor([text_id(text) for text in texts], dtype=torch.int64))


def _texts(
    rows: Sequence[Mapping[str, Any]], column: str | None, other: str | None, name: str
) -> list[tuple[str, ...]]:
    """The texts of the rows, (text,) or (text, translation)."""
    have = list(rows[0])
    other = translation_column(have, other, name)
    wanted = column or next((known for known in (*(SOURCES if other else ()), *tables.TEXTS) if known in have), None)
    if wanted is None or wanted not in have:
        raise DataError(
            f"{name} has the columns {', '.join(have)}, and none is called {column or 'text'}: say text=, the column of the "
            f"texts.{nearest(column or 'text', have)}"
        )
    columns = [wanted] if other is None else [wanted, other]
    return [tuple("" if row.get(key) is None else str(row[key]) for key in columns) for row in rows]


def _part(split: str, texts: Sequence[tuple[str, ...]], seen: dict[str, str], warnings: list[str]) -> TextPart:
    """What is neither empty nor there before; `seen`: the split of each text."""
    kept: dict[tuple[str, ...], None] = {}
    empty = 0
    for each in texts:
        blank = not all(text.strip() for text in each)
        empty += blank
        if not blank and seen.setdefault(each[0], split) == split:
            kept[each] = None
    doubles = len(texts) - len(kept) - empty
    for count, what in ((empty, "empty"), (doubles, "there before")):
        if count:
            warnings.append(f"{count} of {len(texts)} texts of {split!r} are {what}; they are left out.")
    if not kept:
        raise DataError(f"No text of {split!r} is left: {empty} are empty, {doubles} were there before.")
    translated = all(len(each) == 2 for each in kept)
    return translated_part(split, list(kept)) if translated else text_part(split, [each[0] for each in kept])  # type: ignore


def _prompts(prompts: Any) -> dict[str, str]:
    known = ("query", "document")
    if prompts is None:
        return dict.fromkeys(known, "")
    if not isinstance(prompts, Mapping) or not all(isinstance(value, str) for value in prompts.values()):
        raise ArgumentError(f"prompts={prompts!r}: expected a mapping such as {{query: 'query: ', document: ''}}.")
    for key in prompts:
        if key not in known:
            raise ArgumentError(f"prompts has {key!r}.{nearest(str(key), known)}")
    return {key: prompts.get(key, "") for key in known}


def _prompted(part: Part, prompts: Mapping[str, str]) -> Part:
    """Each text with each prompt in use."""
    assert isinstance(part, TextPart)
    used = list(dict.fromkeys(prompts.values()))
    if used == [""]:
        return part
    if isinstance(part, TranslatedPart):
        pairs = zip(part.texts, part.translations)
        return translated_part(part.name, [(prompt + a, prompt + b) for a, b in pairs for prompt in used])
    return text_part(part.name, [prompt + text for prompt in used for text in part.texts])


# what vectors are measured on -----------------------------------------------------------------------------------------


def load_benches(sts: Any, retrieval: Any, warnings: list[str]) -> dict[str, Any]:
    """What models of texts are measured on, by name, see `load_texts`; what there is to say of it goes to `warnings`."""
    found = {**_benches(sts, "sts", read_pairs), **_benches(retrieval, "retrieval", read_retrieval)}
    for bench in found.values():
        warnings += getattr(bench, "warnings", [])
    return found


def _benches(given: Any, kind: str, read: Any) -> dict[str, Any]:
    if given is None:
        return {}
    named = given if isinstance(given, Mapping) and not set(given) <= {*FILES, *PAIR} else {None: given}
    found = {}
    for name, each in named.items():
        bench = each if isinstance(each, Pairs | Retrieval) else read(each)
        bench.name = str(name) if name is not None else bench.name or kind
        found[bench.name] = bench
    return found


def read_pairs(given: Any) -> Pairs:
    """Pairs of texts with a similarity, from a table (a file or a frame)."""
    frame, name = _frame(given, "sts")
    names = _columns(frame, PAIR, name)
    scores = frame[names["score"]].to_numpy(dtype=float)
    if len(frame) < 3 or not np.isfinite(scores).all() or np.ptp(scores) == 0:
        raise DataError(f"{name}: expected at least three pairs with scores that are numbers and differ.")
    first, second = ([str(text) for text in frame[names[key]]] for key in ("first", "second"))
    return Pairs("sts" if not isinstance(given, str | Path) else Path(given).stem, first, second, scores)


def read_retrieval(given: Any) -> Retrieval:
    """Queries, documents and judgements, from a folder of tables or a mapping of them.

    Judgements of documents or queries that are not there, and queries without a relevant document, are left out and
    counted. Raises DataError where nothing is left.
    """
    sources = _files(Path(given)) if isinstance(given, str | Path) else given
    if not isinstance(sources, Mapping) or set(FILES) - set(sources):
        raise DataError(f"retrieval={given!r}: expected a folder, or a mapping with documents, queries and judgements.")
    frames = {key: _frame(sources[key], key) for key in FILES}
    documents = _by_id(*frames["documents"], DOCUMENT, title=True)
    queries = _by_id(*frames["queries"], QUERY)
    frame, name = frames["judgements"]
    names = _columns(frame, JUDGEMENT, name, optional=("grade",))
    grades = frame[names["grade"]] if "grade" in names else [1] * len(frame)
    judgements: dict[str, dict[str, int]] = {}
    unknown = 0
    for query, document, grade in zip(frame[names["query"]], frame[names["document"]], grades):
        if str(document) not in documents or str(query) not in queries:
            unknown += 1
        else:
            judgements.setdefault(str(query), {})[str(document)] = int(grade)
    judgements = {query: found for query, found in judgements.items() if any(grade > 0 for grade in found.values())}
    if not judgements:
        raise DataError(f"No judgement of {name} is of a query and a document that are there, with a grade above 0.")
    warnings = [f"{unknown} of {len(frame)} judgements name a document or query that is not there; left out."] * (
        unknown > 0
    )
    silent = len(queries) - len(judgements)
    warnings += [f"{silent} of {len(queries)} queries have no relevant document; they are left out."] * (silent > 0)
    kept = {query: queries[query] for query in queries if query in judgements}
    return Retrieval(
        Path(given).name if isinstance(given, str | Path) else "retrieval", documents, kept, judgements, warnings
    )


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"retrieval={str(folder)!r}: there is no such folder. Expected one with tables docs, queries, qrels."
        )
    found = {}
    for key, names in FILES.items():
        places = [folder / f"{name}{ending}" for name in names for ending in tables.ENDINGS]
        places += [folder / name / f"test{ending}" for name in names for ending in tables.ENDINGS]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(
                f"{folder} has no table of {key}: expected {' or '.join(names)} with one of {', '.join(tables.ENDINGS)}."
            )
        found[key] = file
    return found


def _frame(given: Any, name: str) -> tuple[Any, str]:
    if isinstance(given, str | Path):
        if not Path(given).is_file():
            raise DataError(f"{name}={str(given)!r}: there is no such file.")
        return tables.read_frame(Path(given)), str(given)
    if hasattr(given, "columns"):
        return given, f"the frame of {name}"
    raise DataError(
        f"{name}: a {type(given).__name__} is no table. Expected a file ({', '.join(tables.ENDINGS)}) or a frame."
    )


def _columns(
    frame: Any, wanted: Mapping[str, Sequence[str]], name: str, optional: Sequence[str] = ()
) -> dict[str, str]:
    have = [str(column) for column in frame.columns]
    found = {}
    for role, known in wanted.items():
        column = next((one for one in known if one in have), None)
        if column is not None:
            found[role] = column
        elif role not in optional:
            raise DataError(f"{name} has the columns {', '.join(have)}; expected one called {' or '.join(known)}.")
    return found


def _by_id(frame: Any, name: str, wanted: Mapping[str, Sequence[str]], title: bool = False) -> dict[str, str]:
    names = _columns(frame, wanted, name)
    ids, texts = [str(one) for one in frame[names["id"]]], [str(one) for one in frame[names["text"]]]
    if len(set(ids)) < len(ids):
        raise DataError(f"{name}: {len(ids) - len(set(ids))} ids in {names['id']!r} are there twice.")
    if title and "title" in frame.columns:
        texts = [f"{head} {body}".strip() for head, body in zip(frame["title"].fillna(""), texts)]
    return dict(zip(ids, texts))


def _size(bench: Any) -> str:
    if isinstance(bench, Pairs):
        return f"{len(bench.first):,} pairs"
    count = sum(len(found) for found in bench.judgements.values())
    return f"{len(bench.queries):,} queries, {len(bench.documents):,} documents, {count:,} judgements"


def _name(spec: Any) -> str:
    return str(spec) if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"


def _short(spec: Any) -> str:
    return Path(spec).stem if isinstance(spec, str | Path) else "texts"
