"""A job: what the user gave (teacher, student, data, task, settings), and how a recipe turns it into stages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from limbeck.data.base import Data, Part, SubsetPart
from limbeck.data.language_parts import PairPart
from limbeck.errors import ArgumentError, DataError
from limbeck.objectives.algebra import Objective
from limbeck.signals.layers import LayerMap, layer_map
from limbeck.signals.stages import stage_at
from limbeck.signals.step import derive
from limbeck.signals.taps import mean_of
from limbeck.tasks.base import Task
from limbeck.teachers.base import ModuleTeacher, Teacher, as_teacher
from limbeck.teachers.live import Derived
from limbeck.training.learner import Learner, View
from limbeck.training.settings import Settings, setting_names
from limbeck.training.shelf import Shelf
from limbeck.training.sources import Source
from limbeck.training.stage import Evaluation, Stage
from limbeck.training.token_sources import source_of


def reset(module: nn.Module, seed: int) -> nn.Module:
    """A copy of a module with fresh weights, drawn from `seed` without touching the global generator."""
    fresh = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for child in fresh.modules():
            again = getattr(child, "reset_parameters", None) or getattr(child, "_reset_parameters", None)
            if callable(again):
                again()
    return fresh


@dataclass
class Job:
    """What the user gave. Recipes call `stage`, `learner`, `fresh_student`, and read the fields.

    `shelf`: where what models write is kept in the run's folder. `rehearsal`: a dry run, in which a recipe does nothing dear
    before its first stage.
    """

    task: Task
    data: Data
    student: nn.Module
    teacher: Teacher | None = None
    settings: Settings = field(default_factory=Settings)
    make_student: Callable[[int], nn.Module] | None = None
    evaluation: Evaluation | None = None
    stages_made: int = 0
    warnings: list[str] = field(default_factory=list)  # what a recipe has to say to the reader of the report
    shelf: Shelf | None = None
    rehearsal: bool = False
    kept: dict[Any, Any] = field(default_factory=dict)  # what was made once for all trainings of this job
    passes: list[dict[str, Any]] = field(default_factory=list)  # what the teacher read for that, and how long it took

    # parts of a plan
    def stage(self, objective: Objective, *, name: str = "train", student: nn.Module | None = None,
              teacher: Any = None, part: Part | None = None, source: Source | None = None,
              learners: Sequence[Learner] = (), roles: Mapping[str, Any] | None = None,
              views: Mapping[str, View] | None = None, labelled_per_batch: int | None = None,
              **settings: Any) -> Stage:  # fmt: skip
        """One training phase: the student learns `objective`, with more `learners` and `roles` where a system has them.

        `part`: what it trains on (default: the train part; of preference pairs the chosen answers, where no term looks at
        both). `settings` change this stage's settings only.
        """
        mine = self.settings.with_(**settings) if settings else self.settings
        mine = mine.with_(seed=derive(mine.seed, "stage", self.stages_made) % 2**62)
        self.stages_made += 1
        found: dict[str, Teacher | Derived] = {}
        if teacher is not None or self.teacher is not None:
            found["teacher"] = as_teacher(teacher if teacher is not None else self.teacher)
        for role, value in (roles or {}).items():
            found[role] = value if isinstance(value, Derived) else as_teacher(value)
        student = self.student if student is None else student
        every = {learner.name: learner for learner in (Learner("student", student, objective), *learners)}
        if len(every) != len(learners) + 1:
            raise ArgumentError(f"Two learners share a name: {['student', *(learner.name for learner in learners)]}.")
        if source is None:
            source = source_of(part or self._part(every.values()), mine, labelled_per_batch)
        needed = {ref.role for learner in every.values() for ref in learner.needs()}
        for derived in [value for value in found.values() if isinstance(value, Derived)]:
            needed |= {ref.role for ref in derived.sources(["logits"])}
        found = {role: value for role, value in found.items() if role in needed}
        return Stage(every, source, self.task, mine, found, dict(views or {}), self.evaluation, name=name)

    def _part(self, learners: Iterable[Learner]) -> Part:
        part = self.data.train
        paired = any(term.paired or term.group for learner in learners for term in learner.objective.terms)
        return part.chosen() if isinstance(part, PairPart) and not paired else part

    def learner(self, name: str, objective: Objective, module: nn.Module | None = None, *,
                copy_of: nn.Module | Teacher | None = None, **options: Any) -> Learner:  # fmt: skip
        """Another learner of a stage: a module, or a copy of one ("copy_of=job.teacher" starts a critic from it)."""
        if (module is None) == (copy_of is None):
            raise ArgumentError(f"The learner {name!r} takes either module= or copy_of=.")
        if copy_of is not None:
            origin = copy_of.module if isinstance(copy_of, ModuleTeacher) else copy_of
            if not isinstance(origin, nn.Module):
                raise ArgumentError(
                    f"The learner {name!r} cannot be a copy of a {type(copy_of).__name__}: it has no module."
                )
            module = copy.deepcopy(origin)
        assert module is not None
        return Learner(name, module, objective, **options)

    def fresh_student(self, number: int = 1) -> nn.Module:
        """A student like the user's with other fresh weights, the same for the same `number`."""
        seed = derive(self.settings.seed, "student", number) % 2**31
        return self.make_student(seed) if self.make_student else reset(self.student, seed)

    def layer(self, role: str, name: str = "auto", at: float = 0.5) -> str:
        """The tap of a layer of the "student" or "teacher": its name, or for "auto" the stage at a fraction of the depth."""
        if name != "auto":
            return name
        if role == "student":
            return stage_at(self.student, at)
        if not isinstance(self.teacher, ModuleTeacher):
            raise ArgumentError(
                "This recipe looks inside the teacher, and the teacher is no module. Give a module, or a store that holds "
                "the layer, named by teacher_layer=."
            )
        return stage_at(self.teacher.module, at)

    def vectors(self, student: str = "auto", teacher: str = "auto", at: float = 1.0) -> tuple[str, str]:
        """The taps of a layer of student and teacher as vectors: means over places, or over the tokens that are no padding.

        What a stored teacher has is taken as it is there, and so is then the student's, but where a mean is stored.
        """
        ours, theirs = self.layer("student", student, at), self.layer("teacher", teacher, at)
        if not isinstance(self.teacher, ModuleTeacher):
            return (mean_of(ours) if theirs.endswith("#mean") else ours), theirs
        return mean_of(ours), mean_of(theirs)

    def layers(self, role: str, pattern: str = "auto") -> list[str]:
        """The taps of the layers of the "student" or "teacher": what a pattern names ("bert.encoder.layer.*"), or "auto"."""
        from limbeck.training.inside import layers_of

        return layers_of(self, role, pattern)

    def layer_pairs(self, how: LayerMap | Sequence[int] = "uniform", student: str = "auto",
                    teacher: str = "auto") -> list[tuple[str, str]]:  # fmt: skip
        """Every layer of the student, and the teacher's that it learns from by a map: see `signals.layers.layer_map`."""
        ours, theirs = self.layers("student", student), self.layers("teacher", teacher)
        return [(one, theirs[number]) for one, number in zip(ours, layer_map(len(ours), len(theirs), how), strict=True)]

    def warn(self, text: str) -> None:
        """Say this in the report of the run."""
        if text not in self.warnings:
            self.warnings.append(text)

    # what the teacher did once
    def stored(self, *taps: str, at: str | None = None) -> Teacher | None:
        """The teacher's signals of the training part, for which it is run once: kept in the folder `at`, else in the run's,
        else in one that goes with the process. In a rehearsal the teacher itself; and so is one that is stored already.
        """
        from limbeck.teachers.once import run_once

        if self.teacher is None or self.teacher.stored or self.rehearsal:
            return self.teacher
        home = None if self.shelf is None else self.shelf.folder
        if (taps, at) not in self.kept:
            self.kept[taps, at] = run_once(self.teacher, self.data, self.task, taps, at, home, self.passes)
        return self.kept[taps, at]

    def begin_rows(self, rows: str, a: float = 1e-4) -> None:
        """Let a static student begin at its teacher's vectors of single tokens: with "auto" where it is fresh.

        `a`: of their weights, see `limbeck.students.token_rows.rarity`.
        """
        from limbeck.students.encoder_grams import HashedGrams
        from limbeck.students.encoders import StaticEncoder
        from limbeck.teachers.once import token_vectors_once

        able = isinstance(self.student, StaticEncoder) and isinstance(self.teacher, ModuleTeacher)
        able = able and not isinstance(self.student.tokenizer, HashedGrams)
        if rows == "teacher" and not able:
            raise ArgumentError(
                "Only a static student begins at its teacher's tokens, and only of a teacher that is a module: student=static."
            )
        if (
            self.rehearsal
            or not able
            or rows == "random"
            or (rows == "auto" and not hasattr(self.student, "limbeck_fresh"))
        ):
            return
        from limbeck.students.token_rows import begin_at_tokens

        assert isinstance(self.teacher, ModuleTeacher) and isinstance(self.student, StaticEncoder)
        if "rows" not in self.kept:
            home = None if self.shelf is None else self.shelf.folder
            self.kept["rows"] = token_vectors_once(self.teacher, self.student.vocabulary, home, self.passes)
        begin_at_tokens(self.student, self.kept["rows"], a)

    # what is at hand
    def model(self, given: Any, role: str) -> Teacher | None:
        """A model that a recipe's argument names, as a teacher: a module, a folder, a hub name; None for None."""
        if given is None:
            return None
        from limbeck.teachers.load import load_model

        found = load_model(given, data=self.data, task=self.task, role=role)
        if isinstance(found, nn.Module):
            self.task.check(self.data, {role: found})
        return as_teacher(found)

    def pairs(self) -> PairPart:
        """The training part as preference pairs. Raises DataError for other data."""
        if not isinstance(self.data.train, PairPart):
            raise DataError(f"The data {self.data.name!r} have no pairs of answers: give prompt, chosen and rejected.")
        return self.data.train

    def copy_of_teacher(self) -> nn.Module:
        """A copy of the teacher, to be trained further. Raises ArgumentError where it is no module."""
        if not isinstance(self.teacher, ModuleTeacher):
            raise ArgumentError(
                "This recipe trains a copy of the teacher, and the teacher here is no module. Give teacher= as a model, or "
                "the models that the recipe would make of it."
            )
        return copy.deepcopy(self.teacher.module).requires_grad_(True)

    def labelled(self) -> Part:
        """The training samples that have a label; of preference pairs the chosen answers."""
        kinds = self.data.train.kinds()
        if isinstance(self.data.train, PairPart):
            return self.data.train.chosen()
        if "unlabelled" not in kinds:
            return self.data.train
        if "labels" not in kinds:
            raise DataError(f"No training sample of {self.data.name!r} has a label, and this needs labels.")
        return SubsetPart(self.data.train, self.data.train.is_labelled().nonzero()[:, 0], "labelled")

    def has(self) -> set[str]:
        """What there is to learn from: "logits" and "answers" of a teacher, "features" of its module, and kinds of samples."""
        found = set()
        if self.teacher is not None:
            found |= ({"logits"} if self.teacher.gives_logits else set()) | (
                set() if self.teacher.stored else {"answers"}
            )
            if isinstance(self.teacher, ModuleTeacher) or self.teacher.stored:
                found.add("features")
        return found | self.data.train.kinds()


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a recipe, and settings of the training."""
    names = setting_names()
    return (
        {key: value for key, value in arguments.items() if key not in names},
        {key: value for key, value in arguments.items() if key in names},
    )
