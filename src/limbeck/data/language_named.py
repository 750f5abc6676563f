"""Texts for language models by name, in the shared data folder (LIMBECK_DATA): prose, plays, worked problems."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

from limbeck._optional import need
from limbeck.data.shared import find_shared

Splits = dict[str, list[Any]]


def named_language(spec: Any) -> Any:
    """The splits behind a name, or behind each name of a mapping, lists of texts or records; anything else as it is.

    - "wikitext2_small": articles; trained on the official test part and scored on the validation part, as one may
    - "tiny_shakespeare": speeches, 90 / 10 by position - "brown": passages of eight sentences, by file
    - "gsm8k": question, and the rationale with its answer behind "####"
    """
    if isinstance(spec, str) and spec in NAMED and not Path(spec).exists():
        return NAMED[spec](find_shared(spec))
    return {name: named_language(source) for name, source in spec.items()} if isinstance(spec, dict) else spec


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().split("\n")


def _wikitext(folder: Path) -> Splits:
    """One text for each article: it begins at a heading of the first level, ` = Title = `."""
    found: Splits = {}
    for split, name in (("train", "test"), ("test", "valid")):
        articles: list[list[str]] = [[]]
        for line in _lines(folder / f"{name}.txt.gz"):
            if re.fullmatch(r" = [^=].* = ?", line):
                articles.append([])
            if line.strip():
                articles[-1].append(line.strip())
        found[split] = ["\n".join(article) for article in articles if article]
    return found


def _shakespeare(folder: Path) -> Splits:
    text = "\n".join(_lines(folder / "input.txt.gz"))
    cut = text.rindex("\n\n", 0, int(0.9 * len(text)))
    return {split: [speech for speech in part.split("\n\n") if speech.strip()]
            for split, part in (("train", text[:cut]), ("test", text[cut:]))}  # fmt: skip


def _brown(folder: Path) -> Splits:
    pandas = need("pandas", "tables")
    found: Splits = {}
    for split in ("train", "test"):
        frame = pandas.read_parquet(folder / f"{split}.parquet")
        found[split] = [
            " ".join(sentences.iloc[start : start + 8])
            for _, sentences in frame.groupby("file", sort=False).text
            for start in range(0, len(sentences), 8)
        ]
    return found


def _gsm8k(folder: Path) -> Splits:
    pandas = need("pandas", "tables")
    found: Splits = {}
    for split in ("train", "test"):
        rows = pandas.read_parquet(folder / f"{split}.parquet").itertuples()
        found[split] = [{"prompt": row.question, "response": f"{row.rationale}\n#### {row.answer}"} for row in rows]
    return found


NAMED = {"wikitext2_small": _wikitext, "tiny_shakespeare": _shakespeare, "brown": _brown, "gsm8k": _gsm8k}
