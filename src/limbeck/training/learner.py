"""A learner: something that is trained in its turn. The student is one; a critic, a router, a peer, a block another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.objectives.algebra import Objective
from limbeck.signals.step import Ref, Step
from limbeck.signals.taps import first_tensor

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Inputs
    from limbeck.tasks.base import Task
    from limbeck.teachers.live import Derived
    from limbeck.training.settings import Settings

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
View = Callable[["Batch", Step], "Inputs"]


class Learner(nn.Module):
    """A module, the objective that trains it, its optimizers, and its turn.

    `every`: it learns at each `every`-th optimizer step, beginning with step `offset`. `feed` names a recorded call
    (`"teacher:layer.1#call"`) whose arguments are this module's inputs: a block trained by itself. Reading, projectors
    and objective run in `forward`, so that wrapping the learner (DDP, FSDP) sees all that learns.
    """

    def __init__(self, name: str, module: nn.Module, objective: Objective, *, every: int = 1, offset: int = 0,
                 feed: str | None = None, optimizer: OptimizerFactory | Mapping[str, Any] | None = None):  # fmt: skip
        super().__init__()
        self.name, self.module, self.objective = name, module, objective
        self.every, self.offset, self.optimizer = every, offset, optimizer
        self.feed = Ref.parse(feed, "teacher") if feed else None
        self.clone: set[str] = set()

    def in_turn(self, number: int) -> bool:
        return number % self.every == self.offset % self.every

    def needs(self) -> list[Ref]:
        """The signals of its objective with "self" replaced by its own name, and of its feed."""
        refs = [self.absolute(ref) for ref in self.objective.needs()]
        return refs + ([self.feed] if self.feed else [])

    def absolute(self, ref: Ref) -> Ref:
        head, slash, view = ref.role.partition("/")
        return Ref(self.name + slash + view, ref.tap) if head == "self" else ref

    def read(
        self, task: Task, step: Step, role: str, taps: Collection[str], views: Mapping[str, View]
    ) -> dict[str, Any]:
        """Run its module once on what `role` (its name, or name/view) sees, and return the named signals."""
        if self.feed:
            args, kwargs = step.signal(self.feed)
            return {"output": first_tensor(self.module(*args, **kwargs))}
        inputs = views[role](step.batch, step) if role in views else task.view(step.batch, self.module, role)
        return task.read(self.module, inputs, list(taps), clone=self.clone)

    def forward(self, step: Step, reading: Reading, only_read: bool = False) -> Any:
        """Read what is wanted of this module (unless it was read already), then evaluate the objective."""
        for role, taps in reading.own(self.name).items():
            if (role, taps[0]) not in step.signals:
                with reading.autocast():
                    step.put(role, self.read(reading.task, step, role, taps, reading.views))
        if only_read:
            return [value for value in step.signals.values() if isinstance(value, Tensor) and value.requires_grad]
        for role, taps in reading.own(self.name).items():
            step.put("self" + role.removeprefix(self.name), {tap: step.signal(Ref(role, tap)) for tap in taps})
        for role, derived in reading.derived(self).items():
            with reading.autocast():
                step.put(role, derived.derive(step, reading.taps[role], reading.task))
        return self.objective.evaluate(step)


def check_terms(learners: Mapping[str, Learner], settings: Settings) -> None:
    """Raise ArgumentError for a term that two learners share, and for relations of samples where there is one at a time."""
    owners: dict[int, str] = {}
    for name, learner in learners.items():
        for parameter in learner.objective.parameters():
            if owners.setdefault(id(parameter), name) != name:
                raise ArgumentError(
                    f"The learners {owners[id(parameter)]!r} and {name!r} share a term that learns (a projector or a "
                    "learned weight). Make one term for each."
                )
        if learner.objective.additive:
            continue
        names = ", ".join(term.name for term in learner.objective.terms if term.per == "batch")
        if settings.accumulate > 1:
            raise ArgumentError(
                f"{names} compare the samples of a whole batch and are not additive over micro-batches: "
                f"with accumulate={settings.accumulate} they would mean something else. Use accumulate=1."
            )
        if settings.batch_size == 1:
            raise ArgumentError(
                f"{names} compare the samples of a batch with each other, and batch_size=1 leaves nothing to compare. "
                "Use batch_size=32 or more."
            )


class Reading:
    """Which signals a stage reads of whom: the union of what all learners need, so that each module runs once."""

    def __init__(self, task: Task, learners: Mapping[str, Learner], derived: Mapping[str, Derived],
                 views: Mapping[str, View], precision: str, device: torch.device, cached: bool = True):  # fmt: skip
        self.task, self.views = task, views
        self.device, self.cached = device, cached
        self.dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.taps: dict[str, list[str]] = {}
        self.watchers: dict[str, set[str]] = {}  # learner -> the other learners that look at it
        self._wants: dict[str, set[str]] = {}
        for learner in learners.values():
            refs = learner.needs()
            for role in {ref.role for ref in refs} & set(derived):
                refs += derived[role].sources([ref.tap for ref in refs if ref.role == role])
            self._wants[learner.name] = {ref.role for ref in refs}
            for ref in refs:
                taps = self.taps.setdefault(ref.role, [])
                if ref.tap not in taps:
                    taps.append(ref.tap)
                owner = ref.role.partition("/")[0]
                if owner in learners and owner != learner.name:
                    self.watchers.setdefault(owner, set()).add(learner.name)
        self._own = {
            name: {
                role: taps for role, taps in self.taps.items() if role.partition("/")[0] == name and role not in derived
            }
            for name in learners
        }
        self._made = {
            name: {role: derived[role] for role in sorted(self._wants[name]) if role in derived} for name in learners
        }
        self.teachers = {  # the roles that are neither a learner nor derived, and the taps that are read of them
            role: taps
            for role, taps in self.taps.items()
            if role not in derived and role.partition("/")[0] not in learners
        }

    def own(self, name: str) -> dict[str, list[str]]:
        """The roles of this learner (itself and its views) and the taps read of each."""
        return self._own[name]

    def derived(self, learner: Learner) -> dict[str, Derived]:
        """The roles made from others that this learner looks at."""
        return self._made[learner.name]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return (
            contextlib.nullcontext()
            if self.dtype is None
            else torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=self.cached)
        )
