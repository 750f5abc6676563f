"""A teacher that is made less sure, or surer, by a temperature: as given, or the one that calibrates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.evaluation.calibration import ece
from limbeck.functional.core import UNLABELLED
from limbeck.signals.blocks import Post
from limbeck.signals.lazy import Lazy
from limbeck.teachers.base import Teacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Part
    from limbeck.tasks.base import Task

GRID = tuple(round(0.5 * 1.1**k, 4) for k in range(22))  # 0.5 to 3.7


def tempered(logits: Any, temperature: float) -> Any:
    """Logits divided by a temperature, lazy ones without being made."""
    if not isinstance(logits, Lazy):
        return logits / temperature  # whole, or what a store kept
    post, cap = logits.post, logits.post.softcap
    # c tanh(x / c) / T = (c / T) tanh((x / T) / (c / T))
    return replace(logits, post=Post(post.scale / temperature, None if cap is None else cap / temperature))


class Tempered(Teacher):
    """Another teacher's signals with its logits divided by `temperature`."""

    def __init__(self, inner: Teacher, temperature: float):
        if not temperature > 0:
            raise ArgumentError(f"temperature={temperature!r}: expected a positive number.")
        self.inner, self.temperature, self.stored = inner, temperature, inner.stored

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        found = dict(self.inner.read(batch, taps, task, progress=progress))
        if "logits" in found:
            found["logits"] = tempered(found["logits"], self.temperature)
        return found

    def identity(self) -> str:
        return f"{self.inner.identity()} at temperature {self.temperature!r}"

    def modules(self) -> list[nn.Module]:
        return self.inner.modules()

    def parts(self) -> list[Teacher]:
        return [self.inner]

    def check(self, data: Any) -> None:
        self.inner.check(data)

    def covers(self, part: Part) -> bool:
        return self.inner.covers(part)


@torch.no_grad()
def calibrating_temperature(teacher: Teacher, part: Part, task: Task, *, grid: Sequence[float] = GRID, bins: int = 15,
                            batch_size: int = 16, most: int = 4096) -> tuple[float, dict[float, float]]:  # fmt: skip
    """The temperature with the least expected calibration error on a part's labels, and the error of each that was tried.

    Of samples or tokens, the first `most` that have a label (FIRST's trustworthy maximization, Shum et al., 2024). For
    every temperature only the most likely class's probability is kept, never logits of all tokens.
    """
    confidence: dict[float, list[Tensor]] = {temperature: [] for temperature in grid}
    right: list[Tensor] = []
    count = 0
    for start in range(0, len(part), batch_size):
        batch = part.batch(torch.arange(start, min(start + batch_size, len(part))))
        logits, labels = teacher.read(batch, ["logits"], task)["logits"], batch.labels
        if labels is None:
            break
        for rows in (labels.reshape(-1) != UNLABELLED).nonzero()[:, 0].split(256):
            z = logits.reshape(-1, logits.shape[-1])[rows] if isinstance(logits, Tensor) else logits.block(rows)
            right.append(z.argmax(-1) == labels.reshape(-1)[rows].to(z.device))
            for temperature in grid:
                confidence[temperature].append((z.float() / temperature).softmax(-1).amax(-1))
            count += len(rows)
        if count >= most:
            break
    if not count:
        raise ArgumentError(f"The part {part.name!r} has no labels, and a teacher is calibrated by them.")
    hits = torch.cat(right).long().cpu()
    errors = {t: _binary_ece(torch.cat(found).cpu(), hits, bins) for t, found in confidence.items()}
    return min(errors, key=errors.__getitem__), errors


def _binary_ece(confidence: Tensor, hits: Tensor, bins: int) -> float:
    """The calibration error of confidences [n] and whether each came true [n], as of two classes."""
    # class 0 is "the first choice is right": with a confidence below 1/2 it still is what is asked about
    chances = torch.stack([confidence, torch.zeros_like(confidence)], -1)
    return ece(chances, 1 - hits, bins)
