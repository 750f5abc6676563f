"""Teachers that move with the training, and roles that are derived from others.

- `Average`: an exponential moving average of a learner. `Snapshot`: a copy of it, taken anew every so many steps.
- `Blend`: the weighted mean of several roles' logits, by weights that may follow a schedule.
- `Spliced`: a role run again with signals of another put in its place (teacher intervention, block replacement).
- `Through`: another role's signal behind a frozen module (a paraphraser of the teacher's maps).

A learner itself may be named as a role ("peer:logits"); its signals reach the others detached.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.evaluation.modes import evaluating
from limbeck.signals.step import Ref, Step
from limbeck.students.adapters import load_trained, trained_state
from limbeck.teachers.base import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch
    from limbeck.objectives.weights import Weight
    from limbeck.tasks.base import Task


class Moving(Teacher):
    """A teacher made from a learner. `follow` is called once before training, `update` after every optimizer step."""

    live = True

    def __init__(self, of: str):
        self.of = of
        self.inner: ModuleTeacher | None = None

    def follow(self, modules: Mapping[str, nn.Module]) -> None:
        if self.of not in modules:
            raise ArgumentError(
                f"{type(self).__name__}({self.of!r}): there is no learner {self.of!r}, only {sorted(modules)}."
            )
        self.inner = ModuleTeacher(copy.deepcopy(modules[self.of]), role=self.of)

    def update(self, modules: Mapping[str, nn.Module], number: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not say how it moves")

    @property
    def module(self) -> nn.Module:
        assert self.inner is not None, "follow() comes first"
        return self.inner.running

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        assert self.inner is not None, "follow() comes first"
        return self.inner.read(batch, taps, task)

    def modules(self) -> list[nn.Module]:
        return [] if self.inner is None else [self.inner.module]

    def identity(self) -> str:
        return f"{type(self).__name__.lower()} of {self.of}"

    def state_dict(self) -> dict[str, Tensor]:
        return trained_state(self.module)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_trained(self.module, state)


class Average(Moving):
    """average <- decay * average + (1 - decay) * learner, for parameters; buffers are copied."""

    def __init__(self, of: str = "student", decay: float = 0.999):
        super().__init__(of)
        if not 0 <= decay < 1:
            raise ArgumentError(f"Average(decay={decay!r}): expected a number from 0 to below 1, such as 0.999.")
        self.decay = decay

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], number: int) -> None:
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(modules[self.of].parameters())
        if mine:
            torch._foreach_lerp_(mine, theirs, 1 - self.decay)
        for own, other in zip(self.module.buffers(), modules[self.of].buffers(), strict=True):
            own.copy_(other)


class Snapshot(Moving):
    """A copy of a learner as it was at the last multiple of `every` steps."""

    def __init__(self, of: str = "student", every: int = 100):
        super().__init__(of)
        if every < 1:
            raise ArgumentError(f"Snapshot(every={every!r}): expected a whole number of 1 or more.")
        self.every = every

    def update(self, modules: Mapping[str, nn.Module], number: int) -> None:
        if (number + 1) % self.every == 0:
            self.module.load_state_dict(modules[self.of].state_dict())


class Derived:
    """A role made from signals of other roles within a step."""

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        """What it needs of others to give these taps."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it is derived from")

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is derived")


class Blend(Derived):
    """sum_r w_r(progress) * signal of role r, detached. The weights are used as given; let them add up to 1."""

    def __init__(self, weights: Mapping[str, float | Weight]):
        from limbeck.objectives.weights import as_weight

        self.weights = {role: as_weight(weight) for role, weight in weights.items()}

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return [Ref(role, tap) for role in self.weights for tap in taps]

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        parts = [(role, weight(step.progress)[0]) for role, weight in self.weights.items()]
        return {
            tap: torch.stack([step.signal(Ref(role, tap)).detach() * factor for role, factor in parts]).sum(0)
            for tap in taps
        }  # fmt: skip


class Spliced(Derived):
    """`base` run on the same batch with other roles' signals put in: Spliced(teacher, {"layer1": "student:layer1"}).

    Gradient flows through the (frozen) base to the role whose signal was put in.
    """

    def __init__(self, base: Teacher | nn.Module, replace: Mapping[str, str]):
        self.base = base if isinstance(base, ModuleTeacher) else ModuleTeacher(base)  # type: ignore[arg-type]
        self.replace = {tap: Ref.parse(source, "student") for tap, source in replace.items()}

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return list(self.replace.values())

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        values = {tap: step.signal(source) for tap, source in self.replace.items()}
        return self.base.read(step.batch, taps, task, replace=values)


class Through(Derived):
    """A signal ("teacher:layer3") behind a module that is run in eval mode without gradient, whatever tap is asked of it."""

    def __init__(self, source: str, module: nn.Module):
        self.source, self.module = Ref.parse(source, "teacher"), module

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return [self.source]

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        signal = step.signal(self.source)
        with evaluating(self.module):
            found = self.module.to(signal.device)(signal.float() if signal.dtype.itemsize < 4 else signal)
        return dict.fromkeys(taps, found)
