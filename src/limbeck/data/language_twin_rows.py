"""Rows of token ids of the student, each with the same text in the teacher's tokens, and which chunks of both are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.base import Batch
from limbeck.data.language_parts import TokenRows, _joined, _running


class TwinRows(TokenRows):
    """`TokenRows` of the student's tokenizer with those of the teacher's, row by row the same texts.

    Inputs, labels and mask of a batch are the student's. `extra["twin"]` has "inputs" and "labels" of the teacher, as wide
    as its own longest row. `extra["chunks"]`: "student" [batch, tokens] and "teacher" [batch, teacher tokens] int64, the
    chunk of the token that each position predicts, by row from 0, -1 where there is none; "words" [batch, chunks] the
    coarser chunk of each, "marks" [batch, chunks] which are no text, "opens" by side which tokens begin with white space or
    end a text, bool [vocabulary]. `extra["populations"]`: by name, how much each counts: "chunk" and "word" 1 where every
    token of it is predicted on both sides, else 0; "chunk token" and "word token" its number of teacher tokens instead.
    """

    tokenizations = 2

    def __init__(self, name: str, documents: Sequence[Any], samples: Sequence[int], *, ids: Tensor, padding: int,
                 teacher_padding: int, opens: tuple[Tensor, Tensor], rows: Sequence[Sequence[int]] | None = None,
                 width: int | None = None, **options: Any):  # fmt: skip
        super().__init__(name, documents, samples, ids=ids, padding=padding, rows=rows, width=width, **options)
        others = [document.other for document in documents]
        self.theirs = TokenRows(name, others, samples, ids=ids, padding=teacher_padding, rows=rows, **options)
        order = range(len(documents)) if rows is None else [number for row in rows for number in row]
        found = [documents[number] for number in order]
        self.chunk_starts = _running([len(document.words) for document in found])  # of documents, [documents + 1]
        word_counts = [int(document.words[-1]) + 1 if len(document.words) else 0 for document in found]
        self.word_starts = _running(word_counts)
        self.opens = {"student": opens[0], "teacher": opens[1]}
        self.marks = torch.from_numpy(_joined([document.marks for document in found], np.bool_))  # [chunks]
        self.worth = torch.from_numpy(_joined([document.teacher_tokens() for document in found], np.int64))  # [chunks]
        numbered = zip(found, self.chunk_starts.tolist(), self.word_starts.tolist())
        flat: list[list[np.ndarray]] = [[], [], []]
        for document, chunk, word in numbered:
            for place, chunks in enumerate((document.chunks, document.other_chunks)):
                after = np.r_[chunks[1:], -1]  # positions say what they predict
                flat[place].append(np.where(after < 0, -1, after + chunk))
            flat[2].append(document.words + word)
        self.after, self.theirs_after, self.words = (torch.from_numpy(_joined(part, np.int64)) for part in flat)

    def batch(self, positions: Tensor | Sequence[int], generator: torch.Generator | None = None, *,
              view: Tensor | None = None) -> Batch:  # fmt: skip
        positions = torch.as_tensor(positions, dtype=torch.int64)
        batch = super().batch(positions, generator, view=view)
        theirs = self.theirs.batch(positions)
        batch.extra |= self._both(positions, batch.extra["mask"], theirs)
        return batch

    def extra(self, positions: Tensor) -> dict[str, Any]:
        found = super().extra(positions)
        index, inside = self.theirs._place(positions, self.theirs.width)
        theirs = Batch(self.theirs._inputs(index, inside), positions, self.theirs._labels(index, inside),
                       extra=self.theirs.extra(positions))  # fmt: skip
        return found | self._both(positions, found["mask"], theirs)

    def _both(self, positions: Tensor, mask: Tensor, theirs: Batch) -> dict[str, Any]:
        begin, end = (self.firsts[positions + step] for step in (0, 1))
        first, last = self.chunk_starts[begin], self.chunk_starts[end]
        chunks = []
        for rows, after, counts in (
            (self, self.after, mask), (self.theirs, self.theirs_after, theirs.extra["mask"])
        ):  # fmt: skip
            index, _ = rows._place(positions, counts.shape[1])
            chunks.append((after[index] - first[:, None]).where(counts & (after[index] >= 0), -1))
        columns = torch.arange(max(1, int((last - first).max())))
        inside = columns < (last - first)[:, None]
        place = (first[:, None] + columns).where(inside, 0)
        worth = self.worth[place].where(inside, 0)
        words = (self.words[place] - self.word_starts[begin][:, None]).where(inside, -1)
        return {
            "twin": {"inputs": theirs.inputs, "labels": theirs.labels},
            "chunks": {"student": chunks[0], "teacher": chunks[1], "words": words,
                       "marks": self.marks[place] & inside, "opens": self.opens},
            "populations": {
                "chunk": (worth > 0).long(), "chunk token": worth, **_of_words(worth, inside, words),
            },
        }  # fmt: skip


def _of_words(worth: Tensor, inside: Tensor, words: Tensor) -> dict[str, Tensor]:
    """Words count where each of their chunks does."""
    count = max(1, int(words.max()) + 1)
    place = words.where(inside, count)
    whole = worth.new_ones(len(worth), count + 1).scatter_reduce(1, place, (worth > 0).long(), "amin")[:, :count]
    tokens = worth.new_zeros(len(worth), count + 1).scatter_add(1, place, worth)[:, :count]
    return {"word": whole * (tokens > 0).long(), "word token": tokens * whole}
