"""All trainings of one `distill`: its seeds, its baseline, and what is measured of them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck import __version__
from limbeck.config import command, plain, python
from limbeck.recipes.registry import as_bound
from limbeck.report.monitor import warning
from limbeck.run import Record
from limbeck.signals.step import derive
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.execute import Runner
from limbeck.training.folder import RunFolder
from limbeck.training.job import Job
from limbeck.training.placement import lies_in_pieces
from limbeck.training.shelf import Shelf

if TYPE_CHECKING:
    from limbeck.api import Prepared


class Trial:
    """All trainings of one `distill`: seeds, and the baseline."""

    def __init__(self, prepared: Prepared, folder: RunFolder | None, resume: bool, track: str | None,
                 progress: bool | None, config: dict[str, Any], watchers: Sequence[Any] = ()):  # fmt: skip
        self.prepared, self.job, self.folder, self.resume = prepared, prepared.job, folder, resume
        self.track, self.progress, self.config, self.watchers = track, progress, config, watchers
        self.seconds: list[float] = []

    def _runner(self, title: str, place: str) -> Runner:
        from limbeck.training.progress import ProgressBar, Tracking

        path = self.folder.path / place if self.folder else None
        watchers: list[Any] = [self.folder] if self.folder else []
        if place == "." and self.prepared.monitor is not None:
            watchers.append(self.prepared.monitor)
        if self.progress is not False:
            watchers.append(ProgressBar(title, always=self.progress is True))
        accelerator = None
        if self.track and place == ".":
            from accelerate import Accelerator

            from limbeck.training.metrics import check_tracker

            check_tracker(self.track)
            accelerator = Accelerator(log_with=self.track, project_dir=str(path or "."))
            watchers.append(Tracking(accelerator, self.config))
        return Runner(path, resume=self.resume, watchers=(*watchers, *self.watchers), accelerator=accelerator)

    def _job(self, number: int) -> Job:
        seed = self.job.settings.seed
        shelf = Shelf(self.folder, "." if number == 0 else f"seeds/{number}") if self.folder else None
        if number == 0:
            return replace(self.job, stages_made=0, shelf=shelf)
        student = self.prepared.make_student(derive(seed, "student", number) % 2**31)
        settings = self.job.settings.with_(seed=derive(seed, "seed", number) % 2**31)
        return replace(self.job, student=student, settings=settings, stages_made=0, shelf=shelf)

    def train(self, seeds: int) -> tuple[list[nn.Module], list[Any], Record]:
        """The students of all seeds; the first one's results and curves."""
        students, results = [], []
        curves: Record = {}
        # only a baseline begins again from them
        self.initial = _weights(self.job.student) if self.config.get("baseline") else {}
        for number in range(seeds):
            job = self._job(number)
            title = self.prepared.bound.recipe.name + (f" (seed {number + 1} of {seeds})" if seeds > 1 else "")
            runner = self._runner(title, "." if number == 0 else f"seeds/{number}")
            begun = time.perf_counter()
            result = runner.run(self.prepared.bound(job))
            self.seconds.append(time.perf_counter() - begun)
            students.append(result.student)
            if number == 0:
                results = runner.results
                metrics = runner.metrics
                curves = {"curves": metrics.curves(), "scores_over_time": metrics.scores()}
                if any(result.generated for result in results):
                    curves["generated"] = [result.generated for result in results]
                if mixture := metrics.mixture():
                    curves["mixture"] = mixture
                if self.prepared.monitor and (watched := self.prepared.monitor.record(metrics)):
                    curves["monitor"] = watched
                    self.job.warnings += [warning(watched)] if watched["alarm"] else []
        return students, results, curves

    def train_alone(self, seeds: int, steps: int) -> list[nn.Module]:
        """The same students from the same beginnings, on labels alone, for the same number of updates."""
        found = []
        alone = as_bound("alone")
        for number in range(seeds):
            job = self._job(number)
            if number == 0:  # the first student has been trained in place: begin again from its first weights
                import copy

                student = copy.deepcopy(self.job.student)
                student.load_state_dict(self.initial)
                job = replace(job, student=student)
            job = replace(job, settings=job.settings.with_(steps=steps), teacher=None)
            title = "alone" + (f" (seed {number + 1} of {seeds})" if seeds > 1 else "")
            found.append(
                self._runner(title, "alone" if number == 0 else f"alone/seeds/{number}").run(alone(job)).student
            )
        return found

    def record(self, students: list[nn.Module], alone: list[nn.Module], measure: bool, writing: Any = None) -> Record:
        """Everything that is measured of teacher, students and baseline: the record of the run."""
        from limbeck.evaluation.record import add_written, describe_data, model_record
        from limbeck.machine import describe as describe_machine
        from limbeck.students.save import save_model

        job, bound = self.job, self.prepared.bound
        for student in students:
            job.task.finish(student, job.teacher)
        saved = None
        if self.folder is not None and self.folder.writes:
            saved = self.folder.path / "student"
            save_model(students[0], saved, task=job.task)
        part = scored_part(job)
        models, confusion, warnings = [], None, [*self.prepared.warnings, *job.warnings]
        if part != "test":
            warnings.append(f"The data have no test part: scores are those of the {part} part.")
        theirs = None
        if job.teacher is not None and not job.teacher.covers(job.data.parts[part]):
            which = (
                "The stored teacher has no signals"
                if job.teacher.stored
                else "The teacher only writes: it gives no logits"
            )
            warnings.append(f"{which} of the {part} part, so that it is not measured on it.")
        elif job.teacher is not None:
            module = job.teacher.module if isinstance(job.teacher, ModuleTeacher) else None
            module = None if lies_in_pieces(job.teacher) else module  # all processes read it together
            teacher_record, theirs, _ = model_record(
                "teacher", "teacher", [module or job.teacher], job, part, None, measure
            )
            models.append(teacher_record)
            warnings += _doubts(teacher_record, job, part)
        student_record, _, confusion = model_record("student", "student", students, job, part, theirs, measure, saved)
        models.append(student_record)
        if alone:
            record, _, _ = model_record("student alone", "baseline", alone, job, part, theirs, False)
            record["cost"] = student_record["cost"]
            models.append(record)
        written: Record = {}
        if writing is not None:
            teachers = [] if job.teacher is None else [getattr(job.teacher, "module", job.teacher)]
            if lies_in_pieces(job.teacher):
                teachers = []
                warnings.append("The teacher lies in pieces over the processes, and writes no answers for the report.")
            every: dict[str, list[Any]] = {"teacher": teachers, "student": students, "baseline": alone}
            written = add_written(models, every, writing, job.teacher)
        for model in models:
            warnings += model["cost"].pop("warnings", [])
        recipe = bound.recipe
        arguments = {name: p.default for name, p in recipe.parameters.items()} | bound.arguments
        return {
            "title": f"{recipe.name} on {job.data.name}", "limbeck": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "recipe": {"name": recipe.name, "arguments": plain(arguments), "paper": recipe.paper, "year": recipe.year,
                       "summary": recipe.summary},
            "task": job.task.name, "learns alone": job.task.learns_alone,
            "data": describe_data(job.data, part), "machine": describe_machine(),
            "training_seconds": [round(value, 3) for value in self.seconds], "teacher_passes": job.passes,
            "models": models, "confusion": confusion, "exports": [], "warnings": list(dict.fromkeys(warnings)),
            "command": command(self.config, self.folder), "python": python(self.config, self.folder), **written,
        }  # fmt: skip


def scored_part(job: Job) -> str:
    """The part that models are measured on: test, or what comes nearest."""
    return next(name for name in ("test", "valid", "train") if name in job.data.parts)


def _doubts(teacher: Record, job: Job, part: str) -> list[str]:
    """A warning where a teacher is no better than a guess: most often it was trained on other inputs than it is given."""
    scores = {name: found["mean"] for name, found in teacher["scores"].items()}
    samples = job.data.parts[part]
    if "accuracy" in scores and job.data.classes and samples.labels is not None:
        known = samples.labels[samples.is_labelled()]
        poor = scores["accuracy"] <= float(known.bincount().max()) / len(known)
    else:
        poor = scores.get("r2", 1.0) <= 0
    scaled = " Columns are brought to mean 0 and deviation 1 of the training part, by the numbers in data.json."
    why = f"The teacher is no better on the {part} part than the same answer for every sample. Was it trained on such inputs?"
    return [why + (scaled if "standardized" in job.data.about else "")] if poor else []


def _weights(module: nn.Module) -> dict[str, Any]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
