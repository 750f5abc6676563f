"""A tokenizer without a vocabulary: words and the runs of characters in them, by a hash. For any language with words."""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.students.encoder_tokens import PlainTokens

FILE = "grams.json"
WORD = re.compile(r"\w+|[^\w\s]")


class HashedGrams:
    """Numbers of a text's words, and of all runs of `shortest` to `longest` characters of each "<word>", in small letters.

    A number is CRC-32 of the run, modulo `size`; 0 to `size` - 1. `pad_token_id` is `size`; a text of which nothing is left
    has one number, `nothing`, `size` + 1. A limit of length counts words. After fastText (Bojanowski et al., 2017).
    """

    padding_side = "right"

    def __init__(self, size: int, shortest: int = 3, longest: int = 5):
        self.size, self.shortest, self.longest = size, shortest, longest
        self.pad_token_id, self.nothing = size, size + 1

    def __call__(self, texts: Sequence[str], *, truncation: bool = False, max_length: int | None = None,
                 **_: Any) -> dict[str, list[list[int]]]:  # fmt: skip
        cut = max_length if truncation else None
        return {"input_ids": [self.numbers(text, cut) or [self.nothing] for text in texts]}

    def numbers(self, text: str, words: int | None = None) -> list[int]:
        """The numbers of the first `words` words of a text."""
        found = WORD.findall(text.casefold())[:words]
        return [number for word in found for number in _numbers(word, self.size, self.shortest, self.longest)]

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        about = {"size": self.size, "shortest": self.shortest, "longest": self.longest}
        (Path(folder) / FILE).write_text(json.dumps(about) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> HashedGrams:
        """From the grams.json of a folder."""
        return cls(**json.loads((Path(folder) / FILE).read_text()))


@functools.lru_cache(2**18)
def _numbers(word: str, size: int, shortest: int, longest: int) -> tuple[int, ...]:
    marked = f"<{word}>"
    runs = [
        marked[at : at + length] for length in range(shortest, longest + 1) for at in range(len(marked) - length + 1)
    ]
    return tuple(zlib.crc32(run.encode()) % size for run in [marked, *(run for run in runs if run != marked)])


def read_tokens(folder: str | Path) -> PlainTokens | HashedGrams:
    """The tokenizer of a static student, from the folder in which it was saved."""
    return HashedGrams.read(folder) if (Path(folder) / FILE).is_file() else PlainTokens.read(folder)
