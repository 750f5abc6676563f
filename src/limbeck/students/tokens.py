"""A tokenizer without a vocabulary: words and word pairs, hashed to buckets. The same ids in every process."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import xxhash

_WORD = re.compile(r"\w+|[^\w\s]")


class HashingTokenizer:
    """Ids of the lower-cased words, punctuation marks and neighbouring pairs of a text: 1 to buckets - 1; 0 is padding.

    Called as a Transformers tokenizer is: `tokenizer(texts)["input_ids"]` is a list of lists of int.
    """

    pad_token_id = 0
    padding_side = "right"

    def __init__(self, buckets: int = 2**15, max_words: int = 512):
        self.buckets, self.model_max_length = buckets, 2 * max_words

    def __call__(self, texts: Sequence[str], truncation: bool = True, max_length: int | None = None,
                 add_special_tokens: bool = True) -> dict[str, list[list[int]]]:  # fmt: skip
        limit = max_length or self.model_max_length
        words = (limit + 1) // 2 if truncation else None  # n words have n - 1 pairs
        return {"input_ids": [self._ids(text, words) for text in texts]}

    def _ids(self, text: str, limit: int | None) -> list[int]:
        words = _WORD.findall(text.lower())[:limit]
        # a separator that no word contains keeps the pair ("new", "york") apart from the word "newyork"
        grams = words + [f"{a}\0{b}" for a, b in itertools.pairwise(words)]
        return [1 + xxhash.xxh32_intdigest(gram.encode()) % (self.buckets - 1) for gram in grams]

    def __eq__(self, other: object) -> bool:  # copies of a student share what was tokenized for it
        return isinstance(other, HashingTokenizer) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.buckets, self.model_max_length))
