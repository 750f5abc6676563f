"""From what the user calls a student to a function of a seed that makes one, in float32 unless its weights stay frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.students.adapters import Lora, add_adapters
from limbeck.students.build import build_student, names_model
from limbeck.students.precision import hold

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task

Maker = Callable[[int], nn.Module]


def student_maker(student: Any, data: Data, task: Task, teacher: Any, lora: Lora | None = None) -> Maker:
    """A function of a seed; what a spec, folder or name gives is new each time, a module is first itself, then like it.

    Weights that will be trained are held in float32, whatever they were saved in: to bfloat16 a small update is nothing.
    """
    if lora is not None:
        return _with_adapters(student, data, task, teacher, lora)
    if isinstance(student, nn.Module):
        return _again(student)
    spec = student if student is not None else default_student(data, teacher)
    return lambda seed: hold(build_student(spec, data, task, teacher, seed), "fp32")


def _again(student: nn.Module) -> Maker:
    from limbeck.training.job import reset

    used: list[int] = []

    def again(seed: int) -> nn.Module:
        # the user's own module first, with the weights it came with; later ones are fresh copies of its shape
        used.append(seed)
        return student if len(used) == 1 else reset(student, seed)

    return again


def _with_adapters(student: Any, data: Data, task: Task, teacher: Any, lora: Lora) -> Maker:
    """A maker of students with adapters, on weights as they were saved; those of a module all have its weights."""
    spec = student if student is not None else default_student(data, teacher)
    own: list[Any] = []

    def adapted(seed: int) -> nn.Module:
        if not isinstance(spec, nn.Module):
            base = build_student(spec, data, task, teacher, seed)
            return add_adapters(base, lora, task.name, seed, spec if names_model(spec) else None)
        base = copy.deepcopy(own[0]).unload() if own else spec
        found = add_adapters(base, lora, task.name, seed)
        own[:] = own or [found]
        return found

    return adapted


def default_student(data: Data, teacher: Any = None) -> str:
    """A small student that fits the data, where the user names none."""
    if data.kind == "tokens":
        return "shrink(depth=0.5)" if teacher is not None else "decoder:2,128"
    if data.kind == "text":
        small = "static" if data.target == "none" else "bag"  # vectors of texts, or their classes
        return "shrink(depth=0.5)" if hasattr(teacher, "config") else small
    if data.kind == "image":
        shape = data.train.batch([0]).inputs.shape
        return "cnn:16" if min(shape[-2:]) >= 16 else "mlp:64"
    return "mlp:64"
