"""Sources of token batches: rows of like length together, and streams that are resumed without reading them again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data.base import Batch, Part
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_stream import TokenStream
from limbeck.errors import ArgumentError
from limbeck.signals.step import derive
from limbeck.training.sources import Models, PartSource, Source

if TYPE_CHECKING:
    from limbeck.training.settings import Settings


def source_of(part: Part, settings: Settings, labelled: int | None = None) -> Source:
    """The source that reads a part in the order that it asks for (`Part.order`).

    `labelled`: how many samples of each batch have a label, as `PartSource` takes it; such batches are not sorted by length.
    """
    readers: dict[str, type[PartSource] | type[TokenSource]] = {
        "any": PartSource, "length": PartSource if labelled is not None else LengthSource, "stream": TokenSource,
    }  # fmt: skip
    return readers[part.order].of(part, settings, labelled)


class LengthSource(PartSource):
    """Batches of rows of like length, so that little is padded; which rows meet, and when, changes with every epoch.

    The shuffled rows are taken in groups of `group` batches, each group sorted by length and cut into batches, and the
    batches of the epoch shuffled. For rows that are not packed.
    """

    def __init__(self, part: TokenRows, batch_size: int, *, group: int = 50, **options: Any):
        if not isinstance(part, TokenRows) or part.even:
            raise ArgumentError(f"The part {part.name!r} has no rows of different lengths to sort by: take PartSource.")
        super().__init__(part, batch_size, **options)
        self.group = group

    def _permutation(self, purpose: str, epoch: int, size: int) -> Tensor:
        if self._order is not None and self._order[0] == epoch:
            return self._order[1]
        generator = torch.Generator().manual_seed(derive(self.seed, purpose, epoch))
        order = torch.randperm(size, generator=generator) if self.shuffle else torch.arange(size)
        assert isinstance(self.part, TokenRows)
        sizes = self.part.sizes
        groups = [group[sizes[group].argsort(stable=True)] for group in order.split(self.group * self.size)]
        batches = [batch for group in groups for batch in group.split(self.size)]
        last = batches.pop() if len(batches[-1]) < self.size else None  # the smaller one stays the last
        if self.shuffle:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        self._order = (epoch, torch.cat([*batches, *([] if last is None else [last])]))
        return self._order[1]


class TokenSource(Source):
    """Batches of a `TokenStream`. Its state goes into the checkpoint, so that a resumed run reads on where it stopped.

    `batch_size`: rows a step over all micro-batches and processes, which divide it; every process reads the stream.
    """

    def __init__(self, stream: TokenStream, batch_size: int, *, accumulate: int = 1):
        if not isinstance(stream, TokenStream):
            raise ArgumentError(
                f"A {type(stream).__name__} is no stream. Expected a TokenStream; for other parts take PartSource."
            )
        self.stream, self.size, self.accumulate = stream, batch_size, accumulate
        self.rank, self.processes = 0, 1
        self._state: dict[str, Any] | None = None

    @classmethod
    def of(cls, part: Part, settings: Settings, labelled: int | None = None) -> Source:
        """Read a stream as the settings say. Raises ArgumentError for what only parts with a length can do."""
        refused = {
            "batch_size": settings.batch_size == "all",
            "workers": settings.workers,
            "labelled_per_batch": labelled,
        }
        for name in [name for name, given in refused.items() if given]:
            raise ArgumentError(
                f"{name}={getattr(settings, name, labelled)!r}: {part.name!r} is a stream, which is read in order and never "
                f"held whole. Leave {name} out, or load the data with stream=False."
            )
        return cls(part, int(settings.batch_size), accumulate=settings.accumulate)  # type: ignore[arg-type]

    def describe(self) -> str:
        return f"{self.stream.describe()}; {self.size} rows a step"

    def place(self, rank: int, processes: int) -> None:
        super().place(rank, processes)
        if self.size % (self.accumulate * processes):
            raise ArgumentError(
                f"batch_size={self.size} cannot be divided among {self.accumulate} micro-batches and {processes} processes."
            )

    def iterate(self, start: int, models: Models) -> Iterator[list[Batch]]:
        each = self.accumulate * self.processes
        known = self._state if self._state is not None and self._state["step"] == start else None
        reader = self.stream.open(self.size // each, known["reader"] if known else None)
        for _ in range(0 if known else start * each):
            next(reader)
        number = start
        while True:
            group = [next(reader) for _ in range(each)]
            number += 1
            self._state = {"step": number, "reader": reader.state_dict()}
            yield group[self.rank :: self.processes]

    def micro_batches(self, number: int, models: Models) -> list[Batch]:
        return next(self.iterate(number, models))

    def state_dict(self) -> dict[str, Any]:
        return self._state or {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = dict(state) or None
