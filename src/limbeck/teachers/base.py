"""A teacher is anything that gives targets: a module, an ensemble, an estimator, a store, another learner."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import move
from limbeck.errors import ModelError, SignalError
from limbeck.evaluation.modes import evaluating

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Part
    from limbeck.tasks.base import Task


class Teacher:
    """Gives signals for a batch, never with a gradient to itself. Subclasses define `read`."""

    stored = False  # True where reading costs nothing and no model is in memory
    gives_logits = True  # False for one that only writes

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        """The named signals for a batch (which lies on the device where they are wanted)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is read")

    def identity(self) -> str:
        """A hash of what determines its signals; equal for equal teachers on every machine."""
        raise NotImplementedError(f"{type(self).__name__} has no identity")

    def modules(self) -> list[nn.Module]:
        """The modules that it runs."""
        return []

    def to(self, device: torch.device) -> None:
        """Bring its modules to the training device, but for those that have a device of their own."""
        for each in self.parts() or self.modules():
            each.to(device)

    def parts(self) -> list[Teacher]:
        """The teachers that it reads."""
        return []

    def check(self, data: Any) -> None:
        """Raise where this teacher cannot speak about these data."""

    def covers(self, part: Part) -> bool:
        """Whether it can be read for every sample of a part (a store may hold another part only)."""
        return True


def module_teachers(teacher: Teacher) -> list[ModuleTeacher]:
    """The module teachers that a teacher is made of."""
    if isinstance(teacher, ModuleTeacher):
        return [teacher]
    return [found for inner in teacher.parts() for found in module_teachers(inner)]


READING = ("pooling", "normalize", "max_length", "max_seq_length")  # what decides vectors beside the weights


def module_hash(module: nn.Module) -> str:
    """sha256 over the class and all parameters and buffers of a module, by name, and over how an encoder reads texts."""
    digest = hashlib.sha256(type(module).__qualname__.encode())
    reading = {name: getattr(module, name, None) for name in READING}
    for name, how in reading.items():
        if isinstance(how, str | bool | int):
            digest.update(f"{name}={how}".encode())
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):
            continue
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


class ModuleTeacher(Teacher):
    """A module, run in eval mode without gradient, no further than the last signal that is needed.

    `home`: a device of its own (None: where the batch lies). Inputs go there, and signals come back to the batch.
    """

    def __init__(self, module: nn.Module, role: str = "teacher", clone: Collection[str] = ()):
        self.module, self.role, self.clone = module, role, set(clone)
        self.settled = False  # whether a loop has put the module into eval mode for its whole stage
        self.home: torch.device | None = None
        self.placed: nn.Module | None = None  # what is run instead: a twin in pieces over processes, in its root
        self.root: Callable[[Callable[[], Any]], Any] | None = None

    @property
    def running(self) -> nn.Module:
        """The module that is run."""
        return self.module if self.placed is None else self.placed

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0,
             replace: Mapping[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
        # eval: a teacher in train mode drifts through its batch-norm statistics, the most common silent error.
        # no_grad and not inference_mode: the student's backward must be able to save these tensors.
        through, module = replace is not None and torch.is_grad_enabled(), self.running
        here = batch.ids.device
        there = self.home or here
        with contextlib.nullcontext() if self.settled else evaluating(module), torch.set_grad_enabled(through):
            inputs, put = task.view(batch.to(there), module, self.role), move(replace, there)

            def read() -> dict[str, Any]:
                return task.read(module, inputs, taps, stop=replace is None, replace=put, clone=self.clone)

            return move(read() if self.root is None else self.root(read), here)

    def identity(self) -> str:
        return module_hash(self.module)

    def modules(self) -> list[nn.Module]:
        return [self.module]

    def to(self, device: torch.device) -> None:
        self.module.to(self.home or device)


class CallableTeacher(Teacher):
    """A function from inputs to logits: a server, a rule, a simulation."""

    def __init__(self, function: Callable[[Any], Tensor]):
        self.function = function

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        unknown = [tap for tap in taps if tap not in task.outputs]
        if unknown:
            raise SignalError(f"This teacher is a function and gives {list(task.outputs)} only, not {unknown}.")
        with torch.no_grad():
            return task.signals(self.function(batch.inputs))

    def identity(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return hashlib.sha256(f"{getattr(self.function, '__module__', '')}.{name}".encode()).hexdigest()


class WritingTeacher(Teacher):
    """Who only writes: a black box, an engine that serves a model. `sampler` is a `limbeck.data.generate.Sampler`."""

    gives_logits = False

    def __init__(self, sampler: Any):
        self.sampler = sampler

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        raise SignalError(f"This teacher writes answers ({type(self.sampler).__name__}) and gives no {list(taps)}.")

    def identity(self) -> str:
        return hashlib.sha256(type(self.sampler).__qualname__.encode()).hexdigest()

    def covers(self, part: Part) -> bool:
        return False


def as_teacher(value: Any) -> Teacher:
    """A teacher from a module, an estimator with predict_proba, a list of teachers, a store, a sampler, or a function."""
    if isinstance(value, Teacher):
        return value
    if isinstance(value, nn.Module):
        return ModuleTeacher(value)
    if isinstance(value, list | tuple | dict):
        from limbeck.teachers.ensemble import Ensemble

        return Ensemble(value)  # type: ignore[arg-type]
    from limbeck.data.generate import Sampler

    if isinstance(value, Sampler):
        return WritingTeacher(value)
    if hasattr(value, "predict_proba") or hasattr(value, "predict"):
        from limbeck.teachers.estimator import EstimatorTeacher

        return EstimatorTeacher(value)
    from limbeck.signals.store import SignalStore

    if isinstance(value, SignalStore):
        from limbeck.teachers.stored import StoredTeacher

        return StoredTeacher(value)
    if callable(value):
        return CallableTeacher(value)
    raise ModelError(
        f"A {type(value).__name__} cannot teach. Expected a torch module, a fitted scikit-learn estimator, a list of "
        "teachers, a signal store, or a function from inputs to logits."
    )
