"""Batches in which one chunk of each rationale is learnt, and the chunks before it are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import Batch
from limbeck.data.language_parts import TokenRows
from limbeck.errors import DataError
from limbeck.functional.core import UNLABELLED
from limbeck.signals.step import derive
from limbeck.training.sources import Models, PartSource


class ChunkedRows(TokenRows):
    """Rows of one document each, whose predicted tokens are cut into chunks.

    `extra["chunk"]` [batch, tokens] int64 says to which chunk each label belongs (-1: to none), `extra["chunks"]` [batch] how
    many a row has.
    """

    chunk: Tensor  # of all tokens
    chunks: Tensor  # of all rows

    @classmethod
    def of(cls, rows: TokenRows, cuts: Sequence[Sequence[int]]) -> ChunkedRows:
        """`cuts` of every row: the ends of its chunks, counted in predicted tokens."""
        found = copy.copy(rows)
        found.__class__ = cls
        assert isinstance(found, ChunkedRows)
        found.chunk = torch.full((len(rows.tokens),), -1)
        for row, ends in enumerate(cuts):
            begin, end = int(rows.starts[row]), int(rows.starts[row + 1])
            predicted = begin + rows.counts[begin:end].nonzero()[:, 0]
            if not len(ends) or ends[-1] != len(predicted):
                raise DataError(f"Row {row} has {len(predicted)} predicted tokens, and its chunks end at {list(ends)}.")
            found.chunk[predicted] = torch.bucketize(torch.arange(len(predicted)), torch.tensor(ends), right=True)
        found.chunks = torch.tensor([len(ends) for ends in cuts])
        return found

    def batch(self, positions: Tensor | Sequence[int], *given: Any, **options: Any) -> Batch:
        batch = super().batch(positions, *given, **options)
        places = torch.as_tensor(positions, dtype=torch.int64)
        index, inside = self._place(places, batch.inputs["input_ids"].shape[1])
        batch.extra |= {"chunk": self.chunk[index].where(inside, -1), "chunks": self.chunks[places]}
        return batch


class ChunkSource(PartSource):
    """In each step the labels of one chunk alone count, so that the loss is the mean over that chunk's tokens.

    Of `count` chunks every one comes once in `count` steps, in an order drawn from (seed, round). A row with fewer chunks gives
    the one at the same share of the way.
    """

    def __init__(self, part: ChunkedRows, batch_size: int | str, *, count: int, **options: Any):
        super().__init__(part, batch_size, **options)
        self.count = count

    def describe(self) -> str:
        return f"{super().describe()}, one of {self.count} chunks at a time"

    def chunk(self, number: int) -> int:
        """The chunk of step `number`."""
        turn, place = divmod(number, self.count)
        generator = torch.Generator().manual_seed(derive(self.seed, "chunks", turn))
        return int(torch.randperm(self.count, generator=generator)[place])

    def micro_batches(self, number: int, models: Models | None = None) -> list[Batch]:
        chunk, batches = self.chunk(number), super().micro_batches(number, models)
        for batch in batches:
            assert batch.labels is not None
            mine = batch.extra["chunk"] == (chunk * batch.extra["chunks"] // self.count)[:, None]
            batch.labels = batch.labels.where(mine, UNLABELLED)
            batch.extra["mask"] = batch.extra["mask"] & mine
            batch.complete = False
        return batches
