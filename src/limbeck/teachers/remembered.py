"""A teacher that says the same of a sample in every training: kept in memory after the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import Batch, Part
from limbeck.tasks.base import Task
from limbeck.teachers.base import Teacher

MOST = 1 << 30  # bytes that are kept of all signals together


class Memory:
    """What a teacher said of the samples of a part, and how often it was asked. See `remember`."""

    def __init__(self, part: Part, most: int):
        self.sorted, self.place = part.ids.sort()
        self.most, self.bytes = most, 0
        self.kept: dict[str, Tensor] = {}
        self.known: dict[str, Tensor] = {}
        self.asked = self.read = 0  # samples

    def rows(self, ids: Tensor) -> Tensor | None:
        """The places of samples [batch]; None where one is not of the part."""
        at = torch.searchsorted(self.sorted, ids.cpu()).clamp(max=len(self.sorted) - 1)
        return self.place[at] if bool((self.sorted[at] == ids.cpu()).all()) else None

    def keep(self, tap: str, rows: Tensor, value: Any) -> None:
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(rows):
            return
        value = value.detach().cpu()
        if tap not in self.kept:
            size = len(self.sorted) * value[0].numel() * value.element_size()
            if self.bytes + size > self.most:
                return
            self.bytes += size
            self.kept[tap] = torch.empty((len(self.sorted), *value.shape[1:]), dtype=value.dtype)
            self.known[tap] = torch.zeros(len(self.sorted), dtype=torch.bool)
        if value.shape[1:] != self.kept[tap].shape[1:]:  # padded to another length: of no use
            self.most = self.bytes
            self.known[tap][:] = False
            return
        self.kept[tap][rows] = value
        self.known[tap][rows] = True


def remember(teacher: Teacher, part: Part, most: int = MOST) -> Memory:
    """Let a teacher keep what it says of a part's samples as they are: later trainings read it from memory.

    Up to `most` bytes; a signal that would go beyond is computed each time, and so is what it says of augmented samples and
    of other parts. For a teacher that does not change.
    """
    memory, read = Memory(part, most), teacher.read

    def remembering(batch: Batch, taps: Sequence[str], task: Task, **options: Any) -> dict[str, Any]:
        plain = batch.view is None and part.augmentation is None and not options.get("replace")
        rows = memory.rows(batch.ids) if plain else None
        memory.asked += len(batch.ids)
        if rows is not None and all(tap in memory.known and bool(memory.known[tap][rows].all()) for tap in taps):
            return {tap: memory.kept[tap][rows].to(batch.ids.device) for tap in taps}
        memory.read += len(batch.ids)
        found = read(batch, taps, task, **options)
        if rows is not None:
            for tap in taps:
                memory.keep(tap, rows, found.get(tap))
        return found

    teacher.read = remembering  # type: ignore[method-assign]
    return memory
