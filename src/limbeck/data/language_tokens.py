"""Token ids of one text, answer or preference, which of them are to be predicted, and what is done when they are too many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limbeck.errors import ArgumentError, DataError, nearest

LONG = ("split", "end", "start", "drop", "error")


@dataclass
class Document:
    """What stands alone: no token of it sees another document.

    `tokens` [n] int32; `predict` [n] bool: which tokens are to be predicted (the first never is: nothing stands before
    it); `prompt`: how many tokens at the start are given when the rest is to be generated.
    """

    tokens: np.ndarray
    predict: np.ndarray
    prompt: int = 0

    @classmethod
    def of(
        cls, tokens: Sequence[int] | np.ndarray, predict: Sequence[bool] | np.ndarray | int, prompt: int = 0
    ) -> Document:
        """From lists; a number as `predict` means all tokens from that one on."""
        found = np.arange(len(tokens)) >= predict if isinstance(predict, int) else np.asarray(predict, dtype=np.bool_)
        found[:1] = False
        return cls(np.asarray(tokens, dtype=np.int32), found, prompt)

    def __len__(self) -> int:
        return len(self.tokens)

    def plain(self) -> tuple[Any, ...]:
        """Plain values, from which `Encoder.restored` makes it again."""
        return self.tokens.tolist(), self.predict.tolist(), self.prompt


@dataclass
class Encoded:
    """One sample: its documents (pieces of a long text, or a preference's chosen and rejected one), or why it has none.

    `size`: tokens before any cut. `cut`: whether some are lost.
    """

    documents: list[Document] = field(default_factory=list)
    size: int = 0
    cut: bool = False
    left_out: str = ""


class Marks:
    """What a tokenizer puts around texts: `prefix` (such as BOS), `eos`, and `padding` (EOS where it has none of its own).

    `eos=False` appends nothing. Raises DataError for a tokenizer that lacks what is needed.
    """

    def __init__(self, tokenizer: Any, eos: bool = True):
        name = type(tokenizer).__name__
        self.tokenizer = tokenizer
        self.eos: int | None = getattr(tokenizer, "eos_token_id", None) if eos else None
        if eos and self.eos is None:
            raise DataError(
                f"The {name} has no end-of-text token, and a student must learn where to stop. Give it one: "
                "tokenizer.eos_token = '...', or say eos=False."
            )
        padding = getattr(tokenizer, "pad_token_id", None)
        padding = getattr(tokenizer, "eos_token_id", None) if padding is None else padding
        if padding is None:
            raise DataError(f"The {name} has neither a padding nor an end-of-text token: tokenizer.pad_token = '...'.")
        self.padding = int(padding)
        self.prefix = _prefix(tokenizer)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens around them."""
        # without `verbose` it warns of every text longer than the model's context, and those are cut or counted later
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _prefix(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before a text; those that it puts behind are left to `Marks.eos`."""
    whole = list(tokenizer(["a"])["input_ids"][0])
    bare = list(tokenizer(["a"], add_special_tokens=False)["input_ids"][0])
    starts = [start for start in range(len(whole)) if bare and whole[start : start + len(bare)] == bare]
    return whole[: starts[0]] if starts else []


def text_document(marks: Marks, ids: Sequence[int]) -> Document:
    """A whole text: all of it is predicted, the end too."""
    end = [] if marks.eos is None or list(ids[-1:]) == [marks.eos] else [marks.eos]
    return Document.of([*marks.prefix, *ids, *end], 1)


def answer_document(marks: Marks, prompt: Sequence[int], response: Sequence[int]) -> Document:
    """A prompt and its response: the response is predicted, and that it ends."""
    start = len(marks.prefix) + len(prompt)
    end = [] if marks.eos is None or list(response[-1:]) == [marks.eos] else [marks.eos]
    return Document.of([*marks.prefix, *prompt, *response, *end], start, start)


def check_long(long: str, length: int) -> None:
    """Raise ArgumentError for a way to shorten that is not known, or a length that leaves nothing to predict."""
    if long not in LONG:
        raise ArgumentError(f"long={long!r}.{nearest(str(long), LONG)}")
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ArgumentError(f"length={length!r}: expected a number of tokens, 2 or more.")


def fit(documents: Sequence[Document], length: int, long: str, keep: int = 0, what: str = "") -> Encoded:
    """The documents of a sample, none longer than `length`.

    `long`: "split" into pieces (each begins with the last token of the one before, so that every token is predicted
    once), cut the "end" (the response loses its end, and learns no stop there) or the "start" (the `keep` first tokens
    stay), "drop" the sample, or "error", which names `what`. A sample left without any token to predict is left out.
    """
    found = Encoded(size=max(len(document) for document in documents))
    for document in documents:
        if len(document) > length:
            if long == "error":
                raise DataError(
                    f"{what} has {len(document)} tokens, the length is {length}. Raise length=, or say long='end', 'start' "
                    "or 'drop'."
                )
            reason = _too_long(document, length, long, keep)
            if reason:
                return Encoded(size=found.size, left_out=reason)
            found.cut = long != "split"
        pieces = _pieces(document, length, long, keep)
        if not pieces:
            return Encoded(size=found.size, left_out="nothing is left to predict")
        found.documents += pieces
    return found


def _too_long(document: Document, length: int, long: str, keep: int) -> str:
    if long == "drop":
        return f"longer than {length} tokens"
    if long == "end" and document.prompt >= length and not document.predict[:length].any():
        return f"the prompt alone has {length} tokens or more"
    if long == "start" and document.prompt and len(document) - document.prompt >= length - keep:
        return f"the response alone has {length - keep} tokens or more"
    return ""


def _pieces(document: Document, length: int, long: str, keep: int) -> list[Document]:
    tokens, predict, size = document.tokens, document.predict, len(document)
    if size <= length:
        pieces = [document]
    elif long == "split":
        pieces = [
            Document.of(tokens[start : start + length], predict[start : start + length].copy())
            for start in range(0, size - 1, length - 1)
        ]
    elif long == "end":
        # where the last answer of a chat is gone, what is to be generated is the one before
        starts = np.flatnonzero(np.diff(np.r_[False, predict[:length]].astype(np.int8)) == 1)
        prompt = document.prompt if document.prompt < length else int(starts[-1])
        pieces = [Document(tokens[:length], predict[:length], prompt)]
    else:
        chosen = np.r_[0:keep, size - length + keep : size]
        gone = size - length
        pieces = [Document.of(tokens[chosen], predict[chosen], max(document.prompt - gone, keep))]
    return [piece for piece in pieces if piece.predict.any()]


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over what decides the token ids: vocabulary, merges, normalization, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        body = json.loads(backend.to_str())
        # calls change these two, and every call says anew what it wants of them
        known: Any = {key: value for key, value in body.items() if key not in ("padding", "truncation")}
    else:
        known = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    marks = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
    text = json.dumps([known, marks, getattr(tokenizer, "chat_template", None)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
