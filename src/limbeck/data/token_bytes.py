"""What the tokens of a tokenizer stand for: bytes of text, or a role. And whether two tokenizers write the same ids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Piece = bytes | str  # bytes of text, or the role of a mark


class TokenBytes:
    """The bytes of every token of a tokenizer; a str, its role, where a token is a mark and no text.

    Roles: "begin", "end" (the end-of-text token, and `stop`, what ends an answer in a chat), "pad", "unknown"; the
    token's own name for other special tokens. Byte-level BPE, sentencepiece with byte fallback, and vocabularies of plain
    strings are told apart by the tokenizer's decoder. `sizes` [tokens] int64: how many bytes each has. `opens` [tokens] bool:
    which tokens begin with white space or end the text, so that a word before them has ended.
    """

    def __init__(self, tokenizer: Any, stop: int | None = None):
        self.name = type(tokenizer).__name__
        vocabulary = tokenizer.get_vocab()
        added = dict(getattr(tokenizer, "added_tokens_decoder", {}))
        marks = {number: str(token) for number, token in added.items() if getattr(token, "special", False)}
        marks |= {
            number: tokenizer.convert_ids_to_tokens(number) for number in getattr(tokenizer, "all_special_ids", ())
        }
        for role, name in (("unknown", "unk"), ("pad", "pad"), ("begin", "bos"), ("end", "eos")):
            if (number := getattr(tokenizer, f"{name}_token_id", None)) is not None:
                marks[number] = role
        if stop is not None:
            marks[stop] = "end"
        written = _writer(tokenizer)
        self.pieces: list[Piece] = ["unknown"] * (max(vocabulary.values(), default=-1) + 1)
        for token, number in vocabulary.items():
            plain = number in added  # what was added later stands as it is written
            self.pieces[number] = marks[number] if number in marks else token.encode() if plain else written(token)
        self.sizes = np.array([len(p) if isinstance(p, bytes) else 0 for p in self.pieces], dtype=np.int64)
        self.opens = np.array([p == "end" or (isinstance(p, bytes) and p[:1].isspace()) for p in self.pieces])

    def __call__(self, ids: Sequence[int] | np.ndarray) -> list[Piece]:
        return [self.pieces[number] for number in ids]


def _writer(tokenizer: Any) -> Any:
    """The function from a token's name in the vocabulary to the bytes that it stands for."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(backend.to_str()).get("decoder")) if hasattr(backend, "to_str") else ""
    if "ByteLevel" in decoder:
        return _byte_level
    if "Metaspace" in decoder or "\\u2581" in decoder or (not decoder and any("▁" in t for t in tokenizer.get_vocab())):
        return _sentencepiece
    if '"WordPiece"' in decoder:
        return lambda token: token[2:].encode() if token.startswith("##") else f" {token}".encode()
    return str.encode


# byte-level BPE writes the bytes that have no printable character of their own as the characters from 256 on
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE = {chr(byte): byte for byte in _PRINTED}
_BYTE |= {chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in set(_PRINTED))}


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE[character] for character in token)
    except KeyError:  # no token of the model, but a text that was added to its vocabulary
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers write every text with the same ids. Marks and chat templates may differ."""
    if one is other:
        return True
    mine, theirs = one.get_vocab(), other.get_vocab()
    added = set(getattr(one, "added_tokens_decoder", {})) | set(getattr(other, "added_tokens_decoder", {}))
    if any(number != theirs.get(token) for token, number in mine.items() if number not in added):
        return False
    if any(number != mine.get(token) for token, number in theirs.items() if number not in added):
        return False
    return _rules(one) == _rules(other)


def _rules(tokenizer: Any) -> Any:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        return type(tokenizer).__name__
    body = json.loads(backend.to_str())
    model = {key: value for key, value in body["model"].items() if key != "vocab"}
    return [model, body.get("normalizer"), body.get("pre_tokenizer")]
