"""Texts with a translation each: one teacher reads the texts, a student both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import TextPart
from limbeck.errors import DataError, nearest

SOURCES = ("source", "src")
TRANSLATIONS = ("translation", "target", "trg", "tgt")


class TranslatedPart(TextPart):
    """Texts, handed out as a list of str, with `extra["translation"]`, the list of their translations."""

    def __init__(self, name: str, texts: Sequence[str], translations: Sequence[str], ids: Tensor):
        super().__init__(name, texts, None, ids)
        self.translations = list(translations)

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return {"translation": [self.translations[i] for i in positions.tolist()]}

    def take(self, positions: Tensor, name: str) -> TranslatedPart:
        other = [self.translations[i] for i in positions.tolist()]
        return TranslatedPart(name, self.gather(positions), other, self.ids[positions])

    def kinds(self) -> set[str]:
        return super().kinds() | {"translations"}


def translated_part(name: str, pairs: Sequence[tuple[str, str]]) -> TranslatedPart:
    """Pairs of a text and its translation as a part. The first pair of a text has the text's hash as its id, others their own:
    so what was stored of a teacher that read the texts alone is found again."""
    from limbeck.data.texts import text_id

    seen: set[str] = set()
    ids = []
    for text, translation in pairs:
        ids.append(text_id(f"{text}\n{translation}" if text in seen else text))
        seen.add(text)
    texts, translations = ([pair[side] for pair in pairs] for side in (0, 1))
    return TranslatedPart(name, texts, translations, torch.tensor(ids, dtype=torch.int64))


def translation_column(have: Sequence[str], asked: str | None, name: str) -> str | None:
    """The column of the translations: the one that is asked for, "translation", beside "source" one that is called "target"
    (which elsewhere is a label), or None where there is none."""
    if asked is not None and asked not in have:
        raise DataError(f"{name} has no column {asked!r} (translation=).{nearest(asked, have)}")
    known = TRANSLATIONS if set(SOURCES) & set(have) else TRANSLATIONS[:1]
    return asked or next((each for each in known if each in have), None)
