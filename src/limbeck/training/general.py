"""What teaches before the task: general texts, and the model that was not trained for the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.data.base import Data, Part
from limbeck.data.texts import load_texts
from limbeck.errors import ArgumentError
from limbeck.signals.taps import match
from limbeck.teachers.base import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.training.job import Job


def general_part(job: Job, given: Any) -> Part | None:
    """Texts beside the task's, without labels: from a file, a folder, a list of str, a part or a Data; None for None."""
    if given is None or isinstance(given, Part):
        return given
    if job.data.kind != "text":
        raise ArgumentError(f"general= takes texts, and these data are of kind {job.data.kind!r}.")
    return given.train.with_labels(None) if isinstance(given, Data) else load_texts(given, test=0).train


def general_teacher(job: Job, given: Any, argument: str, texts: Part | None, layer: str) -> Teacher | None:
    """The model that teaches on general `texts`, whose head is not looked at; None for None.

    It must have the teacher's `layer` and is otherwise of the teacher's kind. Raises ArgumentError.
    """
    if given is None:
        return None
    if texts is None:
        raise ArgumentError(f"{argument}= teaches on the texts of general=, and there are none. Give both, or neither.")
    from limbeck.teachers.load import load_model

    found = load_model(given, data=job.data, task=job.task, role="student")  # one that may get a head
    module = found.module if isinstance(found, ModuleTeacher) else found
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"{argument}= is looked into, and a {type(found).__name__} is no module. Give a model.")
    match(module, layer)
    return ModuleTeacher(module)
