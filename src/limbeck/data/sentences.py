"""Where the sentences of an answer end, in its tokens: what is scored, chosen and cut is whole sentences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError

ENDS = ".!?\n"


class Sentences:
    """Numbers the sentences of token ids. Without a tokenizer all tokens of an answer are one sentence.

    A sentence ends with a token whose text ends, apart from white space, with one of the characters `ends` (a point that a
    digit follows at once is none); or that has a line break in it, where that is one of them. The next one begins with the
    next token that has a text: white space and the end of the text belong to the sentence before.
    """

    def __init__(self, tokenizer: Any, ends: str = ENDS):
        if not ends:
            raise ArgumentError("No character ends a sentence: expected some, such as '.!?\\n'.")
        self.tokenizer, self.ends = tokenizer, ends
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """The text of a token by itself, without special tokens."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=True)
        return self._texts[token]

    def number(self, tokens: Tensor) -> Tensor:
        """The number of each token's sentence, [tokens] int64, from 0 on."""
        if self.tokenizer is None or not len(tokens):
            return torch.zeros(len(tokens), dtype=torch.int64)
        texts = [self.text(token) for token in tokens.tolist()]
        numbers, number, open_ = [], 0, False
        for place, text in enumerate(texts):
            if open_ and text.strip():
                number, open_ = number + 1, False
            numbers.append(number)
            open_ = open_ or self._is_end(text, texts[place + 1] if place + 1 < len(texts) else "")
        return torch.tensor(numbers)

    def _is_end(self, text: str, following: str) -> bool:
        if "\n" in self.ends and "\n" in text:
            return True
        shown = text.strip()
        if not shown or shown[-1] not in self.ends:
            return False
        return not (shown[-1] == "." and following[:1].isdigit())
