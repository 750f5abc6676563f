"""Where a stage's batches come from: a part of the data, a stream, or the models themselves.

A source gives the micro-batches of optimizer step `number` for this process. What it gives depends on its seed and the
number only (or on state that it saves), so that a killed run goes on with the same batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Part
from limbeck.errors import ArgumentError, DataError
from limbeck.signals.step import derive

if TYPE_CHECKING:
    from limbeck.teachers.base import Teacher
    from limbeck.training.settings import Settings

Models = Mapping[str, nn.Module]


class Source:
    """Subclasses define `micro_batches`. `steps_per_epoch` is None where there is no such thing."""

    steps_per_epoch: int | None = None
    progress: float = 0.0  # of the stage, from 0 to 1: set before each step
    draws = False  # whether it runs models
    follows = False  # whether it follows the validation scores, and wants those from before the training too

    def micro_batches(self, number: int, models: Models) -> list[Batch]:
        """The micro-batches of optimizer step `number` for this process, in order."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its batches come from")

    def iterate(self, start: int, models: Models) -> Iterator[list[Batch]]:
        """Steps from `start` on, without end."""
        for number in itertools.count(start):
            yield self.micro_batches(number, models)

    def place(self, rank: int, processes: int) -> None:
        """Say which process this is; called once, before the first batch."""
        self.rank, self.processes = rank, processes

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""

    def scored(self, scores: Mapping[str, float]) -> None:
        """What the student scores on validation data, whenever it is evaluated; the same on every process."""

    def models(self) -> list[Teacher | nn.Module]:
        """Models of its own (a teacher that writes), which are brought to the training device."""
        return []

    def summary(self) -> dict[str, float]:
        """What it made, in numbers for the metrics and the run's record; nothing where it only reads."""
        return {}

    def decided(self) -> dict[str, Any]:
        """What it has decided since it was last asked, in plain values by kind ("mixture"), for the metrics."""
        return {}

    def describe(self) -> str:
        return type(self).__name__


def share(positions: Tensor, rank: int, processes: int) -> tuple[Tensor, bool]:
    """This process's slice of a batch, and whether it is a filler because there were fewer samples than processes."""
    mine = positions[rank::processes]
    return (mine, False) if len(mine) else (positions[:1], True)


class PartSource(Source):
    """Shuffled batches of a part; the order of an epoch comes from (seed, epoch).

    `labelled`: how many samples of each batch have a label, where a part has both kinds (None: as they come). Labelled
    samples are then repeated as often as needed, and an epoch is one pass over the others.
    """

    def __init__(self, part: Part, batch_size: int | str, *, accumulate: int = 1, seed: int = 0, shuffle: bool = True,
                 workers: int = 0, labelled: int | None = None):  # fmt: skip
        if len(part) == 0:
            raise DataError(f"The part {part.name!r} is empty: there is nothing to train on.")
        self.part, self.seed, self.shuffle, self.workers, self.accumulate = part, seed, shuffle, workers, accumulate
        self.size = len(part) if batch_size == "all" else min(int(batch_size), len(part))
        self.rank, self.processes = 0, 1
        self._order: tuple[int, Tensor] | None = None
        self.labelled = labelled
        self._complete = part.labels is not None and part.labels.ndim == 1 and bool(part.is_labelled().all())
        known = part.is_labelled() if labelled is not None else None
        if known is not None:
            self._known, self._unknown = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
            if not 0 < int(labelled or 0) < self.size or not len(self._known) or not len(self._unknown):
                raise DataError(
                    f"labelled={labelled} of each batch of {self.size}: expected fewer than the batch, and a part with "
                    f"labelled and unlabelled samples; it has {len(self._known)} and {len(self._unknown)}."
                )
        self.steps_per_epoch = (
            -(-len(part) // self.size) if labelled is None else -(-len(self._unknown) // (self.size - labelled))
        )

    @classmethod
    def of(cls, part: Part, settings: Settings, labelled: int | None = None) -> Source:
        """Read a part as the settings say."""
        return cls(part, settings.batch_size, accumulate=settings.accumulate, seed=settings.seed,
                   workers=settings.workers, labelled=labelled)  # fmt: skip

    def describe(self) -> str:
        return f"{self.part.describe()}, {self.size} a step"

    def positions(self, number: int) -> Tensor:
        """The samples of the whole batch of step `number`, over all processes."""
        assert self.steps_per_epoch is not None
        epoch, step = divmod(number, self.steps_per_epoch)
        if self.labelled is None:
            return self._permutation("order", epoch, len(self.part))[step * self.size : (step + 1) * self.size]
        rest = self.size - self.labelled
        unknown = self._unknown[self._permutation("order", epoch, len(self._unknown))[step * rest : (step + 1) * rest]]
        generator = torch.Generator().manual_seed(derive(self.seed, "labelled", number))
        known = torch.randint(len(self._known), (self.labelled,), generator=generator)
        return torch.cat([self._known[known], unknown])

    def _permutation(self, purpose: str, epoch: int, size: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(size)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, purpose, epoch))
            self._order = (epoch, torch.randperm(size, generator=generator))
        return self._order[1]

    def micro_batches(self, number: int, models: Models | None = None) -> list[Batch]:
        positions = self.positions(number)
        view, augmentation = None, self.part.augmentation
        if augmentation is not None:  # drawn for the whole batch, so that the number of processes changes nothing
            view = augmentation.draw(len(positions), torch.Generator().manual_seed(derive(self.seed, "view", number)))
        if self.accumulate == 1 and self.processes == 1:
            batch = self.part.batch(positions, view=view)
            batch.complete = self._complete
            return [batch]
        batches = []
        chunks = torch.arange(len(positions)).tensor_split(min(self.accumulate, len(positions)))
        for chunk in chunks:
            mine, filler = share(chunk, self.rank, self.processes)
            batch = self.part.batch(positions[mine], view=None if view is None else view[mine])
            if filler:
                batch.weight = torch.zeros(1)
            batches.append(batch)
        return batches

    def iterate(self, start: int, models: Models | None = None) -> Iterator[list[Batch]]:
        if not self.workers:
            yield from super().iterate(start, models or {})
        loader = torch.utils.data.DataLoader(
            _Steps(self), batch_size=None, sampler=_From(start), num_workers=self.workers, collate_fn=None,
            generator=torch.Generator().manual_seed(derive(self.seed, "workers", start)),
        )  # fmt: skip
        yield from loader


class _Steps(torch.utils.data.Dataset):
    def __init__(self, source: PartSource):
        self.source = source

    def __getitem__(self, number: int) -> list[Batch]:
        return self.source.micro_batches(number)


class _From(torch.utils.data.Sampler):
    def __init__(self, start: int):
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


class StreamSource(Source):
    """Batches of a stream that is larger than memory and may have no known length.

    `open()` starts the stream from its beginning and yields batches; each is one micro-batch. A resumed run reads past
    what was already seen. Every process opens the stream and takes each `processes`-th micro-batch.
    """

    def __init__(self, open: Callable[[], Iterable[Batch]], accumulate: int = 1):
        self.open, self.accumulate = open, accumulate
        self.rank, self.processes = 0, 1

    def iterate(self, start: int, models: Models) -> Iterator[list[Batch]]:
        each = self.accumulate * self.processes
        skip = start * each
        while True:
            stream, seen = iter(self.open()), False
            stream = itertools.islice(stream, skip, None)
            while group := list(itertools.islice(stream, each)):
                seen = True
                mine = group[self.rank :: self.processes]
                if not mine:
                    filler = group[0]
                    filler.weight = torch.zeros(len(filler))
                    mine = [filler]
                yield mine
            if not seen and not skip:
                raise DataError("The stream is empty: it gave no batch.")
            skip = 0

    def micro_batches(self, number: int, models: Models) -> list[Batch]:
        return next(self.iterate(number, models))


class DrawnSource(Source):
    """Batches that come from the models: samples of the student, rollouts, synthetic inputs.

    `draw(models, generator)` gives a batch. A new one is drawn every `every` steps and kept in a buffer of `replay`
    batches; the steps between take an old one at random.
    """

    draws = True

    def __init__(
        self, draw: Callable[[Models, torch.Generator], Batch], *, every: int = 1, replay: int = 1, seed: int = 0
    ):
        if every < 1 or replay < 1:
            raise ArgumentError(f"every={every}, replay={replay}: expected whole numbers of 1 or more.")
        self.draw, self.every, self.replay, self.seed = draw, every, replay, seed
        self.rank, self.processes = 0, 1
        self.buffer: list[Batch] = []

    def micro_batches(self, number: int, models: Models) -> list[Batch]:
        generator = torch.Generator().manual_seed(derive(self.seed, "draw", number, self.rank))
        if number % self.every == 0 or not self.buffer:
            modes = {name: module.training for name, module in models.items()}
            for module in models.values():
                module.eval()
            with torch.no_grad():
                batch = self.draw(models, generator)
            for name, module in models.items():
                module.train(modes[name])
            self.buffer = [*self.buffer, batch][-self.replay :]
            return [batch]
        return [self.buffer[int(torch.randint(len(self.buffer), (1,), generator=generator))]]

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": [vars(batch) for batch in self.buffer]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.buffer = [Batch(**fields) for fields in state["buffer"]]
