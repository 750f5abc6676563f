"""The tokenizer of a static student: the teacher's words and pieces, without special tokens and without Transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck._optional import need
from limbeck.errors import ModelError

FILE = "tokenizer.json"


class PlainTokens:
    """Token ids of texts, [ids of each text]; a text of which nothing is left has one token, `nothing`.

    `backend`: a `tokenizers.Tokenizer`. Ids run from 0 to `size` - 1; `pad_token_id` is `size`, `nothing` is `size` + 1.
    """

    def __init__(self, backend: Any):
        self.backend = backend
        self.backend.no_truncation()
        self.backend.no_padding()
        self.size = backend.get_vocab_size(with_added_tokens=True)
        self.pad_token_id, self.nothing = self.size, self.size + 1
        self.padding_side = "right"

    def __call__(self, texts: Sequence[str], *, truncation: bool = False, max_length: int | None = None,
                 **_: Any) -> dict[str, list[list[int]]]:  # fmt: skip
        encode = getattr(self.backend, "encode_batch_fast", self.backend.encode_batch)
        cut = max_length if truncation else None
        found = [encoding.ids[:cut] for encoding in encode(list(texts), add_special_tokens=False)]
        return {"input_ids": [ids or [self.nothing] for ids in found]}

    def get_vocab(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=True)

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.backend.save(str(Path(folder) / FILE), pretty=False)

    @classmethod
    def read(cls, folder: str | Path) -> PlainTokens:
        """From the tokenizer.json of a folder."""
        return cls(need("tokenizers", "language").Tokenizer.from_file(str(Path(folder) / FILE)))

    @classmethod
    def of(cls, tokenizer: Any) -> PlainTokens:
        """The same words and pieces as a fast Transformers tokenizer, a `tokenizers.Tokenizer`, or another PlainTokens."""
        backend = getattr(tokenizer, "backend_tokenizer", getattr(tokenizer, "backend", tokenizer))
        if not hasattr(backend, "to_str"):
            raise ModelError(
                f"A {type(tokenizer).__name__} cannot be the tokenizer of a static student. Expected a fast tokenizer of "
                "Transformers (AutoTokenizer.from_pretrained(...)), or one of the library tokenizers."
            )
        # a copy: lengths set here must not change the teacher's
        text = json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})
        return cls(need("tokenizers", "language").Tokenizer.from_str(text))
