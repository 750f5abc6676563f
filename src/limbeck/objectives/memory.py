"""Which teacher vector belongs to which student vector, among thousands out of a memory (CRD)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.core import UNLABELLED
from limbeck.functional.maps import noise_contrast
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Contrast(Term):
    """See `contrast`."""

    per = "batch"

    def __init__(self, student: str, teacher: str, ids: Tensor, labels: Tensor | None, width: int, negatives: int,
                 temperature: float, momentum: float):  # fmt: skip
        super().__init__(f"contrast({student})")
        for name, value in (("width", width), ("negatives", negatives)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}={value!r}: expected a whole number of 1 or more.")
        if not temperature > 0 or not 0 <= momentum < 1:
            raise ArgumentError(
                f"temperature={temperature!r}, momentum={momentum!r}: expected more than 0, and from 0 to below 1."
            )
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.width, self.negatives = width, min(negatives, len(ids))
        self.temperature, self.momentum = temperature, momentum
        classes = torch.full_like(ids, UNLABELLED) if labels is None else labels.long()
        # rows of the memory are ordered by class, so that those of other classes are two runs of places
        lone = (classes == UNLABELLED).long()
        order = torch.from_numpy(_by_class(classes, ids))
        ids, classes, lone = ids[order], classes[order], lone[order]
        if len(ids) > 1 and int(lone.sum()) == 0 and int((classes == classes[0]).sum()) == len(ids):
            raise ArgumentError("contrast() needs samples of two classes or more: what it draws is of another class.")
        place = torch.arange(len(ids))
        first = torch.searchsorted(classes, classes, right=False)
        last = torch.searchsorted(classes, classes, right=True)
        self.begin: Tensor
        self.size: Tensor
        self.sorted: Tensor
        self.place: Tensor
        self.register_buffer("begin", torch.where(lone.bool(), place, first), persistent=False)
        self.register_buffer("size", torch.where(lone.bool(), 1, last - first), persistent=False)
        by_id = ids.argsort()
        self.register_buffer("sorted", ids[by_id], persistent=False)
        self.register_buffer("place", by_id, persistent=False)
        self.embed: nn.ModuleList = nn.ModuleList()
        self.memory: Tensor | None
        self.scale: Tensor
        self.register_buffer("memory", None)  # [2, samples, width]: of students and of teachers
        self.register_buffer("scale", torch.zeros(2))  # Z of both sides; 0 until the first step is done
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None

    def needs(self) -> list[Ref]:
        return self.refs

    @property
    def is_built(self) -> bool:
        return bool(self.embed)

    def make(self, step: Step, seed: int) -> None:
        if self.embed:
            return
        pair = self._vectors(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed.extend(nn.Linear(value.shape[1], self.width) for value in pair)
            bound = (3 / self.width) ** 0.5
            self.memory = torch.empty(2, len(self.sorted), self.width).uniform_(-bound, bound)
        self.to(pair[0].device)

    def _vectors(self, step: Step) -> list[Tensor]:
        found = [upcast(step.signal(ref)) for ref in self.refs]
        for ref, value in zip(self.refs, found):
            if value.ndim not in (2, 3, 4):
                raise SignalError(f"{self.name!r} compares vectors of samples; {str(ref)!r} is {list(value.shape)}.")
        from limbeck.functional.transforms import pooled

        return [found[0] if found[0].ndim == 2 else pooled(found[0]),
                (found[1] if found[1].ndim == 2 else pooled(found[1])).detach()]  # fmt: skip

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of the memory of samples [batch]. Raises SignalError for samples that have none."""
        at = torch.searchsorted(self.sorted, ids).clamp(max=len(self.sorted) - 1)
        if bool((self.sorted[at] != ids).any()):
            raise SignalError(f"{self.name!r} has no memory of a sample of this batch: it was made for other data.")
        return self.place[at]

    def draw(self, rows: Tensor) -> Tensor:
        """For each row as many others, of another class where it has one: [batch, negatives]. Drawn with replacement."""
        begin, size = self.begin[rows, None], self.size[rows, None]
        left = len(self.sorted) - size
        chance = torch.rand(len(rows), self.negatives, device=rows.device, dtype=torch.float64)
        drawn = (chance * left).long().clamp(max=len(self.sorted) - 1)
        return drawn + size * (drawn >= begin)

    def values(self, step: Step) -> Tensor:
        assert self.memory is not None
        student, teacher = self._vectors(step)
        given = [student, teacher, step.batch.ids]
        if step.gather is not None:
            given = step.gather(given)
        elif step.batch.weight is not None:
            given = [value[step.batch.weight > 0] for value in given]
        rows = self.rows(given[2])
        ours, theirs = (F.normalize(layer(value)) for layer, value in zip(self.embed, given[:2]))
        places = torch.cat([rows[:, None], self.draw(rows)], 1)
        scales, total = [], ours.new_zeros(())
        for side, (own, memory) in enumerate(((ours, self.memory[1]), (theirs, self.memory[0]))):
            # products with all samples, [batch, samples], are far smaller than the vectors of all negatives
            scores = ((own / self.temperature) @ memory.to(own.dtype).T).gather(1, places).exp()
            first = (scores.detach().mean() * len(self.sorted)).to(self.scale.dtype)
            scale = torch.where(self.scale[side] > 0, self.scale[side], first)
            scores = scores / scale
            total = total + noise_contrast(scores[:, 0], scores[:, 1:], len(self.sorted)).mean()
            scales.append(scale)
        self._pending = rows, torch.stack([ours.detach(), theirs.detach()]), torch.stack(scales)
        return total

    def after(self, value: float, progress: float) -> None:
        """Write what the step saw into the memory, and keep both Z from the first step on."""
        if self._pending is None:
            return
        assert self.memory is not None
        (rows, seen, scales), self._pending = self._pending, None
        mixed = self.momentum * self.memory[:, rows] + (1 - self.momentum) * seen.to(self.memory.dtype)
        self.memory[:, rows] = F.normalize(mixed, dim=-1)
        self.scale = scales.to(self.scale.dtype)

    def __str__(self) -> str:
        return f"contrast({self.refs[0].tap} > {self.refs[1].tap}, width={self.width}, negatives={self.negatives})"


def _by_class(classes: Tensor, ids: Tensor) -> Any:
    """Places in order of class, and of id among equals."""
    import numpy as np

    return np.lexsort((ids.numpy(), classes.numpy()))


def contrast(student: str, teacher: str, *, ids: Tensor, labels: Tensor | None = None, width: int = 128,
             negatives: int = 16384, temperature: float = 0.07, momentum: float = 0.5) -> Contrast:  # fmt: skip
    """Tell a sample's teacher vector from those of other samples by the student's, and the other way round; a scalar.

    `student`, `teacher`: taps of vectors [batch, width], or of maps and tokens, which are pooled. Both are led to `width`
    numbers of norm 1 by a linear map each, and scored, exp(u . v / temperature) / Z, against the other model's memory of the
    sample and of `negatives` drawn ones (of other classes; at most as many as there are samples). Z is N times the mean of the
    first batch's scores and then stays; each step's vectors are mixed into the memory by `momentum`. The sum of both sides, the
    mean over the batch (contrastive representation distillation, Tian et al., 2020). `ids` [samples] and `labels` [samples]
    (-100: unlabelled) are those of the training part.

    Not additive: the batch is one. Memory beside the model: 8 x samples x width bytes that stay (51 MB for 50,000 and 128), and
    in a step products with all samples and a few tensors [batch, negatives]: 0.47 GB at the peak for a batch of 256, 50,000
    samples and 16,384 negatives (`python benchmarks/relations.py`), where the vectors of the negatives alone would be 4 GB.
    """
    return Contrast(student, teacher, ids, labels, width, negatives, temperature, momentum)
