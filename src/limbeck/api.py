"""The main job: from a teacher and data to a small student, with a report."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import name_of, plain
from limbeck.data.base import Data
from limbeck.errors import (
    ArgumentError,
    DataError,
    DivergedError,
    Interrupted,
    LimbeckError,
    ModelError,
    RunError,
    nearest,
)
from limbeck.evaluation.monitor import Monitor, make_monitor
from limbeck.given import DATA_OPTIONS, load_given
from limbeck.recipes.registry import Bound, as_bound
from limbeck.run import Record, Run, check_exports, load_record
from limbeck.signals.step import derive
from limbeck.students.adapters import Lora, as_lora, merged
from limbeck.students.precision import in_half
from limbeck.tasks import Task
from limbeck.teachers.base import as_teacher
from limbeck.training.folder import RunFolder, main_process
from limbeck.training.job import Job
from limbeck.training.placement import keep_on, lies_in_pieces
from limbeck.training.settings import Settings, setting_names
from limbeck.trial import Trial, scored_part

LENGTHS = ("epochs", "steps", "samples", "tokens")


@dataclass
class Prepared:
    """A checked job, before anything is trained: what `distill` and its dry run start from."""

    bound: Bound
    job: Job
    make_student: Callable[[int], nn.Module]
    config: dict[str, Any]
    warnings: list[str]
    lora: Lora | None = None
    monitor: Monitor | None = None

    @property
    def checker(self) -> Any:
        """Which answers are right, where the user does not say: as the recipe has it, or by what stands last."""
        known = self.bound.recipe.parameters.get("checker")
        return self.bound.arguments.get("checker", "final" if known is None else known.default)


def distill(recipe: Any = None, *, teacher: Any = None, student: Any = None, data: Any, out: str | Path | None = None,
            task: str | Task | None = None, seeds: int = 1, baseline: str | None = None, resume: bool = False,
            overwrite: bool = False, dry_run: bool = False, export: str | Sequence[str] = (), track: str | None = None,
            progress: bool | None = None, measure: bool = True, lora: Any = None, teacher_precision: str | None = None,
            teacher_device: str | None = None, generate: int | None = None, checker: Any = None,
            monitor: bool | None = None, oracle: Any = None, watchers: Sequence[Any] = (),
            **options: Any) -> Run | Record:  # fmt: skip
    """Train a small student from a teacher and data, measure both, and write a report.

    `recipe`: a name, `lb.recipes.dist(beta=2.0)`, or None for the task's default. `teacher`: a module, a folder or hub
    name, a fitted scikit-learn estimator, a list of these, a signal store. `student`: the same trainable ones, "mlp:64",
    "cnn:16", "resnet:20", "shrink(depth=2)", or None for a small one that fits the data. `data`: see
    `limbeck.data.load_data`, whose options (label=, text=, labelled=, ...) go in here too.
    `out`: the run's folder; without one nothing is written. `seeds`: how many times all is trained, with other seeds.
    `baseline="alone"`: also train the same student without a teacher, for the same number of updates (doubles the
    time). `lora`: a rank, or options (see `limbeck.students.adapters.Lora`), to train adapters of a pretrained student and
    leave its weights as they are. `teacher_precision`: hold the weights of a Transformers teacher in "bf16", "fp16" or
    "fp32", not as they were saved. `teacher_device`: keep the teacher there ("cuda:1"), not with the student.
    `generate`: how many prompts of the data teacher and student answer for the report,
    greedily (64 where there are prompts and `measure` is on; 0: none); `checker` says which answers are right, for the
    report and for a recipe that asks: "final" (what stands last; the default where the recipe has no other), "number",
    "exact", or a function (prompt, answer, reference) -> float. `monitor`: whether to watch for teacher hacking on the valid
    part (by default for language models); `oracle`: a better model than the teacher, which the monitor takes for the truth.
    `dry_run`: say what would be done (shapes, parameters, time, memory) and train nothing. `watchers`: objects of yours that
    are told how it goes, by whichever of begin(loop), step(loop), scored(loop, scores), end(loop) they have.
    All other options are settings of the training (epochs=, batch_size=, learning_rate=, ...; see `Settings`) or
    arguments of the recipe.

    Raises LimbeckError, before any training, for whatever does not fit; what was done is never lost.
    """
    begun = time.perf_counter()
    if baseline not in (None, "alone"):
        raise ArgumentError(f"baseline={baseline!r}.{nearest(baseline, ['alone'])}")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ArgumentError(f"seeds={seeds!r}: expected a whole number of 1 or more.")
    exports = check_exports(export.split(",") if isinstance(export, str) else export, out)
    if checker is not None and recipe is not None and "checker" in as_bound(recipe).recipe.parameters:
        options["checker"] = checker
    prepared = prepare(recipe, teacher=teacher, student=student, data=data, task=task, lora=lora, monitor=monitor,
                       oracle=oracle, teacher_precision=teacher_precision, teacher_device=teacher_device,
                       **options)  # fmt: skip
    job = prepared.job
    for format in exports:
        job.task.check_export(format, job.student)
    count = generate if measure or generate is not None else 0
    writing = _writing(job, count, checker if checker is not None else prepared.checker)
    asked = {"seeds": seeds, "baseline": baseline, "generate": generate}
    asked |= {"checker": name_of(checker)} if checker is not None else {}
    config = {**prepared.config, **{key: value for key, value in asked.items() if value not in (None, 1)}}
    if dry_run:
        from limbeck.training.rehearsal import rehearse

        job.rehearsal = True
        found = rehearse(prepared.bound(job), job, times=seeds * (2 if baseline else 1))
        models = seeds * (2 if baseline else 1) + (job.teacher is not None)
        return found if writing is None else {**found, "generation": writing.describe(models)}
    folder = None
    if out is not None:
        folder = RunFolder(out)
        about = {**job.data.about, "fingerprint": job.data.fingerprint()}
        folder.open(config, about, resume=resume, overwrite=overwrite)
    elif resume:
        raise ArgumentError("resume=true needs out=, the folder of the run to go on with.")
    trial = Trial(prepared, folder, resume, track, progress, config, watchers)
    try:
        students, results, curves = trial.train(seeds)
        alone = trial.train_alone(seeds, sum(result.steps for result in results)) if baseline else []
        if prepared.lora and prepared.lora.merge:
            students, alone = ([merged(module) for module in found] for found in (students, alone))
        others = not main_process()  # the first process writes, and measures if no teacher needs them all
        record = {} if others and not lies_in_pieces(job.teacher) else trial.record(students, alone, measure, writing)
        if others:
            return Run(students[0], {"verdict": "", "models": []}, task=job.task, data=job.data)
        record |= curves
        record |= {"seconds": round(time.perf_counter() - begun, 3), "config": config, "seeds": list(range(seeds))}
        run = Run(students[0], record, task=job.task, data=job.data, folder=folder)
        if resume and folder is not None and (folder.path / "report.json").exists():
            record["exports"] = load_record(folder.path)["exports"]  # of the same student
        from limbeck.report.verdict import verdict

        record["verdict"] = verdict(record)
        run.save()
        for format in exports:
            run.export(format=format)
    except BaseException as error:
        if folder is not None:
            how = {Interrupted: "interrupted", KeyboardInterrupt: "interrupted", DivergedError: "diverged"}
            folder.status(how.get(type(error), "failed"), error=str(error))
        raise
    if folder is not None:
        folder.status("finished")
    return run


def prepare(recipe: Any = None, *, teacher: Any = None, student: Any = None, data: Any, task: Any = None, lora: Any = None,
            teacher_precision: str | None = None, teacher_device: str | None = None, monitor: bool | None = None,
            oracle: Any = None, **options: Any) -> Prepared:  # fmt: skip
    """Load and check everything that `distill` needs; raises before anything is trained."""
    from limbeck.students.maker import student_maker

    bound, settings, data_options = _sort(recipe, task, options)
    adapters = as_lora(lora)
    seed = settings.get("seed", 0)
    found = load_given(
        data, teacher, student=student, task=task, tasks=() if bound is None else bound.recipe.tasks, seed=seed,
        precision=teacher_precision, **data_options,
    )  # fmt: skip
    the_task, given, model = found.task, found.data, found.model
    if bound is None:
        bound = as_bound(the_task.default_recipe, _rest(options))
    if the_task.name not in bound.recipe.tasks:
        raise ArgumentError(
            f"The recipe {bound.recipe.name!r} is for {', '.join(bound.recipe.tasks)}, and this task is {the_task.name}."
            " `limbeck recipes` shows which recipe fits what you have."
        )
    the_teacher = None if model is None else the_task.taught(as_teacher(model), given)
    module = model if isinstance(model, nn.Module) else None
    if module is not None and module is student:
        raise ArgumentError(
            "Teacher and student are the same module, which would chase itself. To teach a copy: teacher=copy.deepcopy(module)."
        )
    make = student_maker(student, given, the_task, model, adapters)
    first = make(derive(settings.get("seed", 0), "student", 0) % 2**31)
    defaults = _defaults(given, first, settings)
    job = Job(
        the_task, given, first, the_teacher, Settings().with_(**{**settings, **defaults}), make_student=make
    )  # fmt: skip
    if teacher_device is not None:
        keep_on(teacher_device, the_teacher, job.settings)
    job.evaluation = _evaluation(job)
    asked = next((f"{name}={settings[name]!r}" for name in ("patience", "best") if settings.get(name)), None)
    if job.evaluation is None and asked not in (None, "best='last'"):
        raise ArgumentError(f"{asked} needs scores on the way, and no valid part with labels is there: give valid=0.1.")
    _check(bound, job, module)
    config = {
        "recipe": bound.recipe.name, "arguments": bound.arguments, "teacher": name_of(teacher), "student": name_of(student),
        "data": name_of(data), "task": the_task.name, **data_options, **settings,
        **({} if adapters is None else {"lora": asdict(adapters)}),
        **{name: name_of(value) for name, value in (("teacher_precision", teacher_precision), ("oracle", oracle),
           ("teacher_device", teacher_device and str(teacher_device)), ("monitor", monitor)) if value is not None},
    }  # fmt: skip
    if oracle is not None:
        from limbeck.teachers.load import load_model

        oracle = load_model(oracle, data=given, task=the_task, role="teacher")
    watch = make_monitor(job, monitor, oracle)
    warnings = list(given.about.get("warnings", []))
    if in_half(first):
        warnings.append(
            "The student's weights are held in half precision, in which small updates are lost. Train it in float32 "
            "(student.float()), with precision=bf16 for speed."
        )
    return Prepared(bound, job, make, plain(config), warnings, adapters, watch)


def _writing(job: Job, count: int | None, checker: Any) -> Any:
    """The prompts that models answer for the report, where the task's models write."""
    if not job.task.writes:
        if count:
            raise ArgumentError(f"generate={count}: models of {job.task.name} do not write. Leave generate out.")
        return None
    from limbeck.evaluation.written import Writing

    return Writing.of(job, scored_part(job), count, checker)


def _sort(recipe: Any, task: Any, options: Mapping[str, Any]) -> tuple[Bound | None, dict[str, Any], dict[str, Any]]:
    """Options into arguments of the recipe, settings of the training, and options of the data."""
    settings = {key: value for key, value in options.items() if key in setting_names()}
    data_options = {key: value for key, value in options.items() if key in DATA_OPTIONS}
    rest = _rest(options)
    Settings().with_(**settings)
    if recipe is None:
        return None, settings, data_options
    bound = as_bound(recipe)
    for key in rest:
        if key not in bound.recipe.parameters:
            known = [*bound.recipe.parameters, *setting_names(), *DATA_OPTIONS, *inspect.signature(distill).parameters]
            raise ArgumentError(
                f"Neither the recipe {bound.recipe.name!r} nor distill knows {key!r}.{nearest(key, known)}"
            )
    return as_bound(bound, rest), settings, data_options


def _rest(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in setting_names() and key not in DATA_OPTIONS}


def _defaults(data: Data, student: nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Length and rate that suit the student, where the user says nothing: about 2,000 steps, 3 epochs if pretrained."""
    encoder = hasattr(student, "config") and not hasattr(student, "limbeck_fresh")
    usual: dict[str, Any] = {"learning_rate": 5e-5, "clip": 1.0} if encoder else {}
    usual = getattr(student, "limbeck_settings", usual)
    found = {name: value for name, value in usual.items() if name not in settings}
    if any(settings.get(name) is not None for name in LENGTHS):
        return {name: value for name, value in found.items() if name not in LENGTHS}
    if any(name in found for name in LENGTHS):
        return found
    if data.train.order == "stream":
        found["steps"] = 2000
    else:
        size = settings.get("batch_size", 64)
        steps = 1 if size == "all" else math.ceil(len(data.train) / int(size))
        found["epochs"] = 3 if encoder else min(100, max(5, round(2000 / steps)))
    return found


def _evaluation(job: Job) -> Callable[[nn.Module], dict[str, float]] | None:
    from limbeck.evaluation.run import predict

    part = job.data.parts.get("valid")
    if part is None or not len(part) or not bool(part.is_labelled().any()):
        return None
    if job.task.measures:
        return lambda module: job.task.measure(module, part)["scores"]
    labels = part.labels
    assert labels is not None
    return lambda module: job.task.scores(predict(module, part, job.task), labels, job.data.classes)


def _check(bound: Bound, job: Job, teacher: nn.Module | None) -> None:
    have = job.has()
    ways = {
        "logits": "it learns from a teacher: give teacher=, a model whose outputs can be read.",
        "answers": "it learns from what a teacher writes: give teacher=, a model and no store.",
        "features": "it looks inside the teacher: give teacher= as a module, not as an estimator or a function.",
        "labels": "it learns from labels, and no training sample has one: give label=, or a recipe without labels (ssld).",
        "prompts": "models answer prompts in it: give data with prompts and responses, or chats.",
        "preferences": "it learns from pairs of answers: give data with the columns prompt, chosen and rejected.",
        "translations": "it learns from texts and their translations: name both columns by text= and translation=.",
        "pairs": "it learns from pairs of texts: give data with query and documents, or sentence1 and sentence2.",
        "unlabelled": "it needs unlabelled samples: give unlabelled=, or hide some labels by labelled=.",
    }
    for need in bound.recipe.needs:
        if need not in have:
            raise ArgumentError(f"The recipe {bound.recipe.name!r} cannot be used here: {ways[need]}")
    if not any(len(part) for part in job.data.parts.values()):
        raise DataError(
            f"{job.data.train.describe()}, and nothing beside it to score the student on. Give valid=100 (records cut from "
            "its beginning), or a file named valid or test."
        )
    models = {"student": job.student} | ({"teacher": teacher} if teacher is not None else {})
    job.task.check(job.data, models)
    if job.teacher is not None:
        job.teacher.check(job.data)
        if teacher is None and job.teacher.gives_logits:
            _check_outputs(job)


def _check_outputs(job: Job) -> None:
    """A teacher that is no module is asked about two samples."""
    import torch

    assert job.teacher is not None
    part, width = job.data.train, job.task.width(job.data)
    if width is None:
        return
    logits = job.teacher.read(part.batch(torch.arange(min(2, len(part)))), ["logits"], job.task)["logits"]
    found = 1 if logits.ndim == 1 else logits.shape[-1]
    if found != width:
        raise ModelError(f"The teacher gives {found} outputs for each sample; the data {job.data.name!r} need {width}.")


__all__ = ["LimbeckError", "Run", "RunError", "distill", "prepare"]
