"""What a user gives, loaded in the right order: the task, its data, a model beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.data.base import Data
from limbeck.errors import ArgumentError, nearest
from limbeck.tasks import Task, resolve

DATA_OPTIONS = (
    "label", "text", "features", "target", "labelled", "valid", "test", "unlabelled", "augment", "image_size",
    # of texts for language models
    "tokenizer", "length", "long", "pack", "prompt", "response", "messages", "template", "stream", "buffer", "domain",
    # of texts for vectors
    "sts", "retrieval", "prompts", "translation", "forms",
)  # fmt: skip


@dataclass
class Given:
    """A task, its data, and the teacher (or the one model that is asked about), where there is one."""

    task: Task
    data: Data
    model: Any = None


def load_given(data: Any, model: Any = None, *, role: str = "teacher", student: Any = None, task: Any = None,
               tasks: Sequence[str] = (), seed: int = 0, precision: str | None = None, **options: Any) -> Given:  # fmt: skip
    """Load data and model. Where the data's tokens depend on the models' tokenizer, the model comes first.

    `options` are those of the data. The task is what the user says, the one of `tasks` (a recipe's) where there is but one,
    what a model is, or else what the data are.
    """
    from limbeck.data import load_data
    from limbeck.teachers.load import load_model

    check_data_options(options)
    found = _task_before_data(task, tasks, model, student)
    if found is not None and found.tokenized:
        loaded: Any = None if model is None else load_model(model, task=found, role=role, precision=precision)
        return Given(found, found.load(data, [student, loaded], seed=seed, **options), loaded)
    given = load_data(data, seed=seed, **options)
    found = found or resolve(None, given)
    loaded = None if model is None else load_model(model, data=given, task=found, role=role, precision=precision)
    return Given(found, given, loaded)


def check_data_options(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in DATA_OPTIONS:
            raise ArgumentError(f"There is no option {key!r} of the data.{nearest(key, [*DATA_OPTIONS, 'seed'])}")


def _task_before_data(task: Any, tasks: Sequence[str], model: Any, student: Any) -> Task | None:
    """The task, where the user, the recipe or a model says it; None where the data decide."""
    from limbeck.teachers.load import is_causal
    from limbeck.teachers.load_encoders import task_of_texts

    if task is not None:
        return resolve(task)
    if len(tasks) == 1:
        return None if tasks[0] == "classification" else resolve(tasks[0])
    if is_causal(model) or is_causal(student) or str(student).startswith("decoder"):
        return resolve("causal_lm")
    found = task_of_texts(model) or task_of_texts(student)
    return resolve(found) if found is not None and (not tasks or found in tasks) else None
