"""Samples as two tokenizers write them, the student's and the teacher's, aligned chunk by chunk and cut at the same places."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from limbeck.data.language_encode import Encoder
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_read import Fields, Record
from limbeck.data.language_tokens import Document, Encoded
from limbeck.data.language_twin_rows import TwinRows
from limbeck.data.token_bytes import Piece, TokenBytes
from limbeck.errors import DataError
from limbeck.functional.alignment import shared_chunks, words_of_chunks

UNLIMITED = 1 << 40
DIFFER = "the two tokenizers write it with different texts"


@dataclass
class Twin(Document):
    """A document of the student's tokens, and the same of the teacher's.

    `chunks` [n] and `other_chunks` [m]: the chunk of every token, -1 for none; chunks count from 0, on both sides in
    order. `words` [chunks]: the coarser chunk, which ends before white space or at a mark, that each belongs to. `marks`
    [chunks]: which are no text.
    """

    other: Document = None  # type: ignore[assignment]
    chunks: np.ndarray = None  # type: ignore[assignment]
    other_chunks: np.ndarray = None  # type: ignore[assignment]
    words: np.ndarray = None  # type: ignore[assignment]
    marks: np.ndarray = None  # type: ignore[assignment]

    def plain(self) -> tuple[Any, ...]:
        arrays = (self.chunks, self.other_chunks, self.words, self.marks)
        return *super().plain(), self.other.plain(), *(found.tolist() for found in arrays)

    def teacher_tokens(self) -> np.ndarray:
        """How many of the teacher's tokens each chunk has, [chunks]: 0 where it holds a token that a side does not predict."""
        count = len(self.words)
        found = np.bincount(self.other_chunks[self.other_chunks >= 0], minlength=count)
        for chunks, document in ((self.chunks, self), (self.other_chunks, self.other)):
            found[chunks[(chunks >= 0) & ~document.predict]] = 0
        return found

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Where both sides may be cut, as tokens before the cut: at the start and behind every chunk, [chunks + 1] each."""
        found = []
        for chunks in (self.chunks, self.other_chunks):
            places = np.flatnonzero(chunks >= 0)
            last = np.searchsorted(chunks[places], np.arange(len(self.words)), side="right") - 1
            found.append(np.r_[0, places[last] + 1])
        return found[0], found[1]

    def cut(self, mine: np.ndarray, theirs: np.ndarray, prompts: tuple[int, int] = (0, 0)) -> Twin:
        """What is left of both sides when the tokens at these places are kept, chunks numbered anew."""
        chunks, other = self.chunks[mine], self.other_chunks[theirs]
        kept = np.intersect1d(chunks[chunks >= 0], other[other >= 0])
        anew = np.full(len(self.words) + 1, -1)  # the last one for -1
        anew[kept] = np.arange(len(kept))
        first = Document.of(self.tokens[mine], self.predict[mine].copy(), prompts[0])
        second = Document.of(self.other.tokens[theirs], self.other.predict[theirs].copy(), prompts[1])
        words = np.unique(self.words[kept], return_inverse=True)[1]
        alike = (anew[chunks], anew[other], words, self.marks[kept])
        return Twin(first.tokens, first.predict, first.prompt, second, *alike)


# alignment
def align(
    mine: Sequence[Piece], theirs: Sequence[Piece]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Chunks [n] and [m] of the tokens of two tokenizations, words and marks [chunks]; None where they write different texts.

    Marks are paired by their roles and in order, never by bytes; one at the start of a text ("begin") may be missing on one
    side. Between marks the bytes must be equal, but for white space at either end (sentencepiece writes a space before a
    text, chat templates theirs around an answer), which goes to the chunk that it touches.
    """
    sides = [_stretches(pieces) for pieces in (mine, theirs)]
    if sides[0][1] != sides[1][1]:
        return None
    chunks = [np.full(len(mine), -1), np.full(len(theirs), -1)]
    words: list[np.ndarray] = []
    roles: list[bool] = []
    count = 0
    for number, (one, other) in enumerate(zip(sides[0][0], sides[1][0])):
        found = _align_texts([mine[k] for k in range(*one)], [theirs[k] for k in range(*other)])
        if found is None:
            return None
        for side, span, numbers in zip(chunks, (one, other), found):
            side[slice(*span)] = np.where(numbers < 0, -1, numbers + count)
        words.append(found[2])
        count += len(found[2])
        roles += [False] * len(found[2])
        if number < len(sides[0][1]):  # the mark behind it
            chunks[0][one[1]] = chunks[1][other[1]] = count
            words.append(np.zeros(1, dtype=np.int64))
            roles.append(True)
            count += 1
    starts = np.cumsum([0, *(int(part[-1]) + 1 if len(part) else 0 for part in words)])
    numbered = np.concatenate([part + start for part, start in zip(words, starts)])
    return chunks[0], chunks[1], numbered, np.array(roles, dtype=np.bool_)


def _stretches(pieces: Sequence[Piece]) -> tuple[list[tuple[int, int]], list[str]]:
    """(start, end) of the texts between marks, one more than there are marks, and the marks' roles."""
    start = 1 if pieces and pieces[0] == "begin" else 0
    marks = [k for k in range(start, len(pieces)) if isinstance(pieces[k], str)]
    edges = [start - 1, *marks, len(pieces)]
    return [(before + 1, after) for before, after in itertools.pairwise(edges)], [str(pieces[k]) for k in marks]


def _align_texts(mine: list[Any], theirs: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    texts = [b"".join(side) for side in (mine, theirs)]
    trimmed = texts
    if texts[0] != texts[1]:
        trimmed = [text.strip() for text in texts]
        if trimmed[0] != trimmed[1]:
            return None
    ends = []
    for side, text, core in zip((mine, theirs), texts, trimmed):
        before = len(text) - len(text.lstrip()) if core is not text else 0
        found = np.cumsum([len(piece) for piece in side], dtype=np.int64)
        ends.append(np.clip(found - before, 0, len(core)))
    first, second, chunk_ends = shared_chunks(*ends)
    return first, second, words_of_chunks(trimmed[0], chunk_ends) if len(chunk_ends) else np.zeros(0, dtype=np.int64)


def align_documents(mine: Document, theirs: Document, one: TokenBytes, other: TokenBytes) -> Twin | None:
    """Two documents of one sample as one; None where the texts differ.

    Whole, or where only what surrounds the answers differs (a chat template's headers), answer by answer.
    """
    pieces, others = one(mine.tokens), other(theirs.tokens)
    found = align(pieces, others)
    if found is None:
        runs = [_runs(document.predict) for document in (mine, theirs)]
        if len(runs[0]) != len(runs[1]):
            return None
        chunks, other_chunks, words = np.full(len(mine), -1), np.full(len(theirs), -1), np.zeros(0, dtype=np.int64)
        marks = np.zeros(0, dtype=np.bool_)
        for first, second in zip(*runs):
            part = align(pieces[slice(*first)], others[slice(*second)])
            if part is None:
                return None
            for side, span, numbers in zip((chunks, other_chunks), (first, second), part):
                side[slice(*span)] = np.where(numbers < 0, -1, numbers + len(words))
            words = np.r_[words, part[2] + (words[-1] + 1 if len(words) else 0)]
            marks = np.r_[marks, part[3]]
        found = chunks, other_chunks, words, marks
    return Twin(mine.tokens, mine.predict, mine.prompt, theirs, *found)


def _runs(predict: np.ndarray) -> list[tuple[int, int]]:
    steps = np.diff(np.r_[0, predict.astype(np.int8), 0])
    return list(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist()))


# cuts
def fit_twin(twin: Twin, lengths: tuple[int, int], long: str, keep: tuple[int, int], what: str = "") -> Encoded:
    """The pieces of a twin, neither side longer than its length, both sides always cut at the end of the same chunk.

    `long` as in `limbeck.data.language_tokens.fit`; "split" begins each piece with the last chunk of the one before.
    """
    size = len(twin)
    if size <= lengths[0] and len(twin.other) <= lengths[1]:
        return _checked([twin], size, False)
    told = f"{size} tokens of the student and {len(twin.other)} of the teacher"
    limits = f"{lengths[0]} and {lengths[1]}"
    if long == "error":
        raise DataError(f"{what} has {told}, the lengths are {limits}. Say long='split', 'end', 'start' or 'drop'.")
    if long == "drop":
        return Encoded(size=size, left_out="longer than the student's or the teacher's length")
    pieces = _split(twin, lengths) if long == "split" else _shorten(twin, lengths, long, keep)
    if not pieces:
        return Encoded(size=size, left_out=f"no cut leaves {limits} tokens of the student and the teacher, or less")
    return _checked(pieces, size, long != "split")


def _checked(pieces: list[Twin], size: int, cut: bool) -> Encoded:
    pieces = [piece for piece in pieces if piece.teacher_tokens().any()]
    reason = "" if pieces else "nothing is left that both predict"
    return Encoded(list(pieces), size, cut and bool(pieces), reason)


def _split(twin: Twin, lengths: tuple[int, int]) -> list[Twin]:
    joints, others = twin.joints()
    last, begin, pieces = len(joints) - 1, 0, []
    done = 0  # chunks that earlier pieces predict
    while True:
        ends = (np.searchsorted(side, side[begin] + length, side="right") - 1
                for side, length in zip((joints, others), lengths))  # fmt: skip
        end = int(min(ends))
        if end <= done and begin < last:
            return []  # one chunk does not fit
        places = [np.arange(side[begin], side[end]) for side in (joints, others)]
        if end == last:  # with what stands behind the last chunk, where it fits
            rest = [np.arange(side[begin], len(whole)) for side, whole in ((joints, twin), (others, twin.other))]
            places = rest if all(len(place) <= length for place, length in zip(rest, lengths)) else places
        piece = twin.cut(places[0], places[1], (twin.prompt, twin.other.prompt) if begin == 0 else (0, 0))
        for document, side in ((piece, joints), (piece.other, others)):
            document.predict[: side[done] - side[begin]] = False
        pieces.append(piece)
        if end == last:
            return pieces
        begin, done = end - 1, end


def _shorten(twin: Twin, lengths: tuple[int, int], long: str, keep: tuple[int, int]) -> list[Twin]:
    joints, others = twin.joints()
    prompts = (twin.prompt, twin.other.prompt)
    if long == "end":
        end = int(
            min(np.searchsorted(side, length, side="right") - 1 for side, length in zip((joints, others), lengths))
        )
        made = twin.cut(np.arange(joints[end]), np.arange(others[end]), prompts)
        # where the last answer is gone, what is to be generated is the one before
        for document in (made, made.other):
            if document.prompt >= len(document) > 0:
                runs = _runs(document.predict)
                document.prompt = runs[-1][0] if runs else 0
        return [made] if len(made) else []
    sizes = (len(twin), len(twin.other))
    fits = [np.maximum(side, kept) + length >= size + kept
            for side, kept, length, size in zip((joints, others), keep, lengths, sizes)]  # fmt: skip
    inside = [(side <= prompt) | (prompt == 0) for side, prompt in zip((joints, others), prompts)]
    possible = np.flatnonzero(fits[0] & fits[1] & inside[0] & inside[1])
    if not len(possible):
        return []
    starts = [max(int(side[possible[0]]), kept) for side, kept in zip((joints, others), keep)]
    places = [np.r_[0:kept, start:size] for kept, start, size in zip(keep, starts, sizes)]
    left = [max(prompt - start + kept, kept) for prompt, start, kept in zip(prompts, starts, keep)]
    return [twin.cut(places[0], places[1], (left[0], left[1]))]


# from records to rows
class TwinEncoder(Encoder):
    """Documents of records as the student's and as the teacher's tokenizer writes them, each a `Twin`.

    `length` and `teacher_length` limit the two sides; everything else as in `Encoder`. A sample that the two write with
    different texts, or of which nothing is left that both predict, is left out.
    """

    tokenizations = 2

    def __init__(self, tokenizer: Any, teacher: Any, fields: Fields, *, teacher_length: int, **options: Any):
        super().__init__(tokenizer, fields, **options)
        self.other = Encoder(teacher, fields, **{**options, "length": UNLIMITED})
        self.teacher_length = teacher_length
        self.bytes = TokenBytes(tokenizer, self.stop), TokenBytes(teacher, self.other.stop)

    def __call__(self, records: Sequence[Record], names: Sequence[str]) -> list[Encoded]:
        mine, theirs = self.documents(records, names), self.other.documents(records, names)
        return [self._joined(one, other, name) for one, other, name in zip(mine, theirs, names)]

    def _joined(self, one: list[Document] | Encoded, other: list[Document] | Encoded, name: str) -> Encoded:
        if isinstance(one, Encoded) or isinstance(other, Encoded):
            return one if isinstance(one, Encoded) else other  # type: ignore[return-value]
        found = Encoded()
        for mine, theirs in zip(one, other):
            twin = align_documents(mine, theirs, *self.bytes)
            if twin is None:
                return Encoded(size=len(mine), left_out=DIFFER)
            lengths, keep = (self.length, self.teacher_length), (self.keep, self.other.keep)
            part = fit_twin(twin, lengths, self.long, keep, name)
            if part.left_out:
                return part
            found.documents += part.documents
            found.size, found.cut = max(found.size, part.size), found.cut or part.cut
        return found

    def restored(self, plain: Sequence[Any]) -> Document:
        *mine, other, chunks, other_chunks, words, marks = plain
        document = Document.of(*mine)
        found = Twin(document.tokens, document.predict, document.prompt, Document.of(*other))
        found.chunks, found.other_chunks, found.words = (
            np.asarray(x, dtype=np.int64) for x in (chunks, other_chunks, words)
        )
        found.marks = np.asarray(marks, dtype=np.bool_)
        return found

    def part(self, name: str, documents: Sequence[Document], samples: Sequence[int], **options: Any) -> TokenRows:
        opens = [torch.from_numpy(found.opens) for found in self.bytes]
        return TwinRows(name, documents, samples, padding=self.marks.padding,
                        teacher_padding=self.other.marks.padding, opens=(opens[0], opens[1]), **options)  # fmt: skip
