"""Batches that are mixed of domains, in shares that follow what the student has learnt of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Part, SubsetPart
from limbeck.errors import ArgumentError, DataError
from limbeck.functional.mixture import DomainMixture, apportion
from limbeck.signals.step import derive
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.sources import Models, PartSource

if TYPE_CHECKING:
    from limbeck.training.job import Job

Measure = Callable[[nn.Module | None], Sequence[float]]


def domain_parts(data: Data, split: str, rows: int | None = None) -> dict[str, Part]:
    """The rows of a part by domain, at most `rows` of each, evenly spread over it.

    Raises DataError for data without domains, and for a domain without rows in the part.
    """
    part = data.parts.get(split)
    if not data.domains or (part is not None and part.domain is None):
        raise DataError(
            f"The data {data.name!r} have no domains to choose among. Say domain=COLUMN, the column that names each "
            "record's domain, or give a mapping from domain to source: data={news: news.jsonl, code: code.jsonl}."
        )
    found: dict[str, Part] = {}
    for number, name in enumerate(data.domains):
        known = None if part is None else part.domain
        places = torch.zeros(0, dtype=torch.int64) if known is None else torch.nonzero(known == number)[:, 0]
        if part is None or not len(places):
            raise DataError(
                f"The domain {name!r} has no {split} samples, by which a student's lag is seen. Say {split}=0.1, or give "
                f"files named {split}."
            )
        if rows is not None and len(places) > rows:
            places = places[torch.linspace(0, len(places) - 1, rows).long()]
        found[name] = SubsetPart(part, places, f"{split}, {name}")
    return found


def domain_losses(job: Job, rows: int) -> Measure:
    """Cross-entropies [domains], in nats per token, of a student, or of the job's teacher (None), on validation rows."""
    parts = domain_parts(job.data, "valid", rows)
    teacher = job.teacher.module if isinstance(job.teacher, ModuleTeacher) else job.teacher

    def measure(student: nn.Module | None) -> list[float]:
        model = teacher if student is None else student
        return [job.task.measure(model, part)["scores"]["nll"] for part in parts.values()]  # type: ignore[attr-defined]

    return measure


class MixtureSource(PartSource):
    """Batches of rows of several domains, by the shares of a `DomainMixture`.

    Every `every` steps, the first included, `measure(student)` gives the student's cross-entropy on each domain's
    validation rows, `measure(None)`, once, the teacher's, and the mixture moves. How many rows each domain gives to a step
    follows from (seed, step) and the shares; which ones, from how many it has given: each domain is read in passes of an
    order of its own. Shares, measurements and places are in the checkpoint.
    """

    draws = True

    def __init__(self, part: Part, domains: Sequence[str], batch_size: int | str, *, measure: Measure, mixture: DomainMixture,
                 every: int = 100, accumulate: int = 1, seed: int = 0, workers: int = 0):  # fmt: skip
        if every < 1:
            raise ArgumentError(f"every={every}: expected a number of steps, 1 or more.")
        if workers:
            raise ArgumentError(
                f"workers={workers}: batches that follow the learning cannot be read ahead. Say workers=0."
            )
        super().__init__(part, batch_size, accumulate=accumulate, seed=seed)
        if part.domain is None:
            raise DataError(f"The part {part.name!r} does not know its samples' domains.")
        self.domains, self.measure, self.mixture, self.every = list(domains), measure, mixture, every
        self.places = [(part.domain == number).nonzero()[:, 0] for number in range(len(self.domains))]
        empty = [name for name, places in zip(self.domains, self.places) if not len(places)]
        if empty:
            raise DataError(f"The domain {empty[0]!r} has no samples in the part {part.name!r}.")
        self.drawn = [0] * len(self.domains)  # rows given so far
        self.teacher: list[float] = []  # cross-entropies, measured once
        self.news: dict[str, Any] = {}
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def describe(self) -> str:
        how = f"uniform={self.mixture.uniform}, smoothing={self.mixture.smoothing}, every={self.every}"
        return f"{super().describe()}; mixed of {', '.join(self.domains)} ({how})"

    def micro_batches(self, number: int, models: Models | None = None) -> list[Batch]:
        if number % self.every == 0:
            self._follow(number, (models or {})["student"])
        return super().micro_batches(number, models)

    def positions(self, number: int) -> Tensor:
        """The rows of the next step, which is `number`; they count as drawn."""
        offset = torch.rand((), generator=torch.Generator().manual_seed(derive(self.seed, "domains", number)))
        counts = apportion(self.mixture.weights, self.size, float(offset))
        return torch.cat([self._next(domain, count) for domain, count in enumerate(counts)])

    def _next(self, domain: int, count: int) -> Tensor:
        places, found = self.places[domain], []
        while count:
            epoch, start = divmod(self.drawn[domain], len(places))
            if self._orders.get(domain, (-1,))[0] != epoch:
                generator = torch.Generator().manual_seed(derive(self.seed, "order", domain, epoch))
                self._orders[domain] = (epoch, torch.randperm(len(places), generator=generator))
            found.append(places[self._orders[domain][1][start : start + count]])
            self.drawn[domain] += len(found[-1])
            count -= len(found[-1])
        return torch.cat(found) if found else places[:0]

    def _follow(self, number: int, student: nn.Module) -> None:
        if number == 0:  # asked for again: as if for the first time
            self.mixture, self.drawn = replace(self.mixture, discrepancy=()), [0] * len(self.drawn)
        if not self.teacher:
            self.teacher = self._agreed(self.measure(None))
        found = self._agreed(self.measure(student))
        self.mixture = self.mixture.after(found, self.teacher)
        self.news = {
            "domains": self.domains,
            "weights": list(self.mixture.weights),
            "student": found,
            "teacher": self.teacher,
        }

    def _agreed(self, values: Sequence[float]) -> list[float]:
        """The first process's numbers: a last bit apart would be other rows."""
        found: list[Any] = [list(map(float, values))]
        if self.processes > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return found[0]

    def decided(self) -> dict[str, Any]:
        news, self.news = self.news, {}
        return {"mixture": news} if news else {}

    def state_dict(self) -> dict[str, Any]:
        return {"mixture": self.mixture.to_dict(), "drawn": list(self.drawn), "teacher": list(self.teacher)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mixture, self.news = DomainMixture.from_dict(state["mixture"]), {}
        self.drawn, self.teacher = list(state["drawn"]), list(state["teacher"])
