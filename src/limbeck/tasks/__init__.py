"""Tasks by name: how a kind of model is run, supervised, scored and exported."""

from __future__ import annotations

from limbeck.data.base import Data
from limbeck.errors import ArgumentError, nearest
from limbeck.tasks.base import Task

__all__ = ["Task", "resolve", "tasks"]


def tasks() -> dict[str, type[Task]]:
    """Every task by its name."""
    from limbeck.tasks.causal_lm import CausalLM
    from limbeck.tasks.classification import Classification, Regression
    from limbeck.tasks.embedding import Embedding
    from limbeck.tasks.ranking import Ranking

    return {task.name: task for task in (Classification, Regression, CausalLM, Embedding, Ranking)}


def resolve(task: str | Task | None, data: Data | None = None) -> Task:
    """A task from its name or itself; without one, what the data's targets say."""
    if isinstance(task, Task):
        return task
    if task is None:
        task = "regression" if data is not None and data.target == "values" else "classification"
    known = tasks()
    if task not in known:
        raise ArgumentError(f"There is no task {task!r}.{nearest(task, known)}")
    return known[task]()
