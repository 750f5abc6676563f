"""A stage: learners, teachers, data, a length. And what it leaves behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from limbeck.errors import ArgumentError
from limbeck.tasks.base import Task
from limbeck.teachers.base import Teacher
from limbeck.teachers.live import Derived
from limbeck.training.learner import Learner, View
from limbeck.training.settings import Settings
from limbeck.training.sources import Source

Evaluation = Callable[[nn.Module], dict[str, float]]


@dataclass
class Stage:
    """One training phase. `keep` is the learner that is evaluated, whose best weights are kept, and that is the result.

    `roles`: teachers by role, and roles derived from others (`Blend`, `Spliced`). `views`: what a role such as
    "student/masked" sees of a batch. `evaluate`: scores of the kept learner's module on the validation part.
    """

    learners: dict[str, Learner]
    source: Source
    task: Task
    settings: Settings
    roles: dict[str, Teacher | Derived] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    evaluate: Evaluation | None = None
    keep: str = "student"
    name: str = "train"

    def __post_init__(self) -> None:
        if self.keep not in self.learners:
            raise ArgumentError(
                f"The stage keeps {self.keep!r}, which is not one of its learners: {list(self.learners)}."
            )
        both = set(self.learners) & set(self.roles)
        if both:
            raise ArgumentError(f"{sorted(both)} are names of learners and of teachers; give them different ones.")

    @property
    def teachers(self) -> dict[str, Teacher]:
        return {role: value for role, value in self.roles.items() if isinstance(value, Teacher)}

    @property
    def derived(self) -> dict[str, Derived]:
        return {role: value for role, value in self.roles.items() if isinstance(value, Derived)}

    def describe(self) -> dict[str, Any]:
        """What the stage does, in plain values: for `describe`, the run folder, and its print."""
        return {
            "name": self.name,
            "objectives": {name: str(learner.objective) for name, learner in self.learners.items()},
            "turns": {name: [learner.every, learner.offset] for name, learner in self.learners.items()},
            "roles": {role: type(value).__name__ for role, value in self.roles.items()},
            "source": self.source.describe(),
            "settings": {key: value for key, value in asdict(self.settings).items() if value is not None},
        }

    def fingerprint(self) -> str:
        """A print of the stage: a resumed run whose stage prints differently is refused."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class Result:
    """What a stage gives back to its recipe. `generated`: what its source made, in numbers."""

    student: nn.Module
    modules: Mapping[str, nn.Module]
    scores: dict[str, float]
    steps: int
    seconds: float
    generated: dict[str, float] = field(default_factory=dict)
