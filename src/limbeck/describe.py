"""Behind the commands: describe recipes, models, runs and data; store, evaluate, export and report by their paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.disk import read
from limbeck.errors import ArgumentError, RunError, nearest
from limbeck.given import DATA_OPTIONS, Given, check_data_options, load_given
from limbeck.recipes.registry import Recipe, find
from limbeck.run import Record, Run, load_record

if TYPE_CHECKING:
    from limbeck.data.base import Part
    from limbeck.tasks.base import Task


@dataclass
class Description:
    """Plain values, and the lines that a person reads."""

    plain: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    def show(self) -> None:
        print("\n".join(self.lines))


def describe_all(words: Sequence[str], given: dict[str, Any]) -> Description:
    """What the words or arguments name: recipes, a run or model folder, `teacher=`/`student=`, or `data=`."""
    if len(words) > 2:
        raise ArgumentError(f"Expected one thing to describe, or two recipes to compare, got {list(words)}.")
    if words and Path(words[0]).exists() and len(words) == 1:
        path = Path(words[0])
        return describe_run(path) if (path / "run.json").exists() else describe_model(path)
    if words:
        found = [find(word) for word in words]
        return describe_recipe(found[0], given) if len(found) == 1 else describe_difference(found[0], found[1])
    for key in ("teacher", "student", "model"):
        if key in given:
            return describe_model(given[key])
    if "data" in given:
        return describe_data(given)
    raise ArgumentError("Say what to describe: a recipe (limbeck describe dist), a folder, teacher=, or data=.")


def describe_recipe(recipe: Recipe, arguments: dict[str, Any] | None = None) -> Description:
    """A recipe's idea, paper, arguments with their types and defaults, and the plan it gives on a toy."""
    from limbeck.recipes.registry import check_arguments
    from limbeck.recipes.toy import toy_job
    from limbeck.training.stage import Stage

    job = toy_job(recipe)
    job.rehearsal = True
    plan = recipe(job, **check_arguments(recipe, arguments or {}))
    first = plan if isinstance(plan, Stage) else next(iter(plan))
    rows = {
        name: {"type": getattr(p.annotation, "__name__", str(p.annotation)), "default": p.default}
        for name, p in recipe.parameters.items()
    }
    plain = {**recipe.row(), "doc": recipe.doc, "arguments": rows, "plan": first.describe(),
             "stages": 1 if isinstance(plan, Stage) else None}  # fmt: skip
    lines = [f"{recipe.name}  ({recipe.paper}, {recipe.year}; {recipe.field})", "", recipe.doc, "", "arguments:"]
    lines += [f"  {name}: {row['type']} = {row['default']!r}" for name, row in rows.items()] or ["  none"]
    lines += ["", f"needs: {', '.join(recipe.needs)}    proof: {plain['verdict']}", "objectives:"]
    lines += [f"  {name}: {text}" for name, text in first.describe()["objectives"].items()]
    if not isinstance(plan, Stage):
        lines.append("more stages follow; they depend on the results of earlier ones.")
    return Description(plain, lines)


def describe_difference(first: Recipe, second: Recipe) -> Description:
    """The lines in which two recipes differ."""
    import difflib

    one, two = describe_recipe(first), describe_recipe(second)
    lines = list(difflib.unified_diff(one.lines, two.lines, first.name, second.name, lineterm="", n=0))
    return Description({"first": one.plain, "second": two.plain, "difference": lines}, lines or ["no difference"])


def describe_model(spec: Any) -> Description:
    """A model's stages and the modules that can be tapped."""
    from limbeck.evaluation.cost import parameters
    from limbeck.signals.stages import stages
    from limbeck.signals.taps import module_names
    from limbeck.teachers.load import load_model

    model = load_model(str(spec), role="teacher")
    if not isinstance(model, nn.Module):
        return Description(
            {"kind": type(model).__name__}, [f"{spec}: a {type(model).__name__}; it has no modules to tap."]
        )
    modules = {name: type(child).__name__ for name, child in module_names(model).items() if name}
    found = stages(model)
    plain = {"kind": type(model).__name__, "parameters": parameters(model), "stages": found, "modules": modules}
    lines = [
        f"{spec}: {type(model).__name__}, {parameters(model):,} parameters",
        f"stages: {', '.join(found)}",
        "modules:",
    ]
    return Description(plain, lines + [f"  {name:48} {kind}" for name, kind in modules.items()])


def describe_run(path: Path) -> Description:
    """How far a run came, and what it was asked for."""

    state, config = read(path / "run.json"), read(path / "config.yaml")
    plain = {"path": str(path), **state, "config": config}
    lines = [f"{path}: {state['status']}"] + ([state["error"]] if state.get("error") else [])
    lines += [f"  {key}: {value}" for key, value in config.items()]
    if (path / "report.json").exists():
        plain["verdict"] = load_record(path)["verdict"]
        lines.append(plain["verdict"])
    return Description(plain, lines)


def describe_data(given: dict[str, Any]) -> Description:
    """Parts, counts, classes and how they were split."""
    from limbeck.data import load_data

    options = dict(given)
    source, seed = options.pop("data"), options.pop("seed", 0)
    check_data_options(options)
    data = load_data(source, seed=seed, **options)
    from limbeck.evaluation.record import describe_data as describe

    plain = describe(data, next(name for name in ("test", "valid", "train") if name in data.parts))
    return Description(plain, [f"{key}: {value}" for key, value in plain.items()])


def store_teacher(*, teacher: Any, data: Any, out: str | Path, taps: Sequence[str] | str = ("logits",),
                  top_k: int | None = None, top_mass: float | None = None, dtype: str = "float16",
                  parts: Sequence[str] | str = ("train",), views: Any = "none", seed: int = 0, task: str | None = None,
                  overwrite: bool = False, **options: Any) -> Record:  # fmt: skip
    """Run a teacher once over data and keep its signals in `out`, a store there replaced by `overwrite` alone.

    See `limbeck.signals.store.store_signals`; `options` are those of the data. On a terminal a bar shows rows and time left.
    """
    from limbeck.evaluation.cost import bytes_on_disk
    from limbeck.signals.store import store_signals
    from limbeck.teachers.base import as_teacher
    from limbeck.training.progress import counting

    given = load_given(data, teacher, task=task, seed=seed, **options)
    with counting("store") as progress:
        found = store_signals(
            as_teacher(given.model), given.data, Path(out), task=given.task, top_k=top_k, top_mass=top_mass, dtype=dtype,
            taps=[taps] if isinstance(taps, str) else list(taps), parts=[parts] if isinstance(parts, str) else list(parts),
            views=views, resume=not overwrite, progress=progress,
        )  # fmt: skip
    return {"out": str(out), "rows": found.rows, "bytes": bytes_on_disk(out), "taps": list(found.taps),
            **({"compression": found.manifest.lost} if found.manifest.lost else {})}  # fmt: skip


def evaluate_model(*, model: Any, data: Any = None, teacher: Any = None, part: str = "test", task: str | None = None,
                   novel: Any = None, seed: int = 0, **options: Any) -> Record:  # fmt: skip
    """Measure a model, and a teacher beside it. A run folder brings its own data when none are given.

    `novel`: other data of the same form; how well the models tell them from the known ones of `part` is measured too.
    `options` are those of the data.
    """
    from limbeck.evaluation.record import describe_data, model_record, spread
    from limbeck.machine import describe
    from limbeck.teachers.base import as_teacher
    from limbeck.teachers.load import load_model
    from limbeck.training.job import Job

    if data is None:
        config = run_config(model)
        data, seed = config["data"], config.get("seed", 0)
        options = {**{key: config[key] for key in DATA_OPTIONS if key in config}, **options}
        task = task or config.get("task")
    given = load_given(data, model, role="student", task=task, seed=seed, **options)
    loaded, module = given.data, given.model
    if part not in loaded.parts:
        raise ArgumentError(f"There is no part {part!r} of {loaded.name!r}.{nearest(part, loaded.parts)}")
    other = None if teacher is None else load_model(teacher, data=loaded, task=given.task, role="teacher")
    both = {"model": module, "teacher": other}
    given.task.check(loaded, {role: each for role, each in both.items() if isinstance(each, nn.Module)})
    job = Job(given.task, loaded, module if isinstance(module, nn.Module) else nn.Identity())
    strange = None if novel is None else _novel_part(novel, given, part, options)
    if strange is not None and not isinstance(module if other is None else other, nn.Module):
        raise ArgumentError(f"novel= is measured of models, and this teacher is a {type(other).__name__}.")
    models, theirs, confusion = [], None, None
    if other is not None:
        other = other if isinstance(other, nn.Module) else as_teacher(other)
        record, theirs, _ = model_record("teacher", "teacher", [other], job, part, None, True)
        models.append(record)
    record, _, confusion = model_record("student", "student", [module], job, part, theirs, True)
    models.append(record)
    if strange is not None:
        for record, each in zip(models, [module] if other is None else [other, module], strict=True):
            found = novelty_of(given.task, each, loaded.parts[part], strange)
            record["scores"] |= {name: spread([value]) for name, value in found.items()}
    return {"title": f"{model} on {loaded.name}", "models": models, "confusion": confusion, "machine": describe(),
            "data": describe_data(loaded, part), "task": given.task.name}  # fmt: skip


def _novel_part(novel: Any, given: Given, part: str, options: Mapping[str, Any]) -> Part:
    """All samples of the novel data, or of a data set with parts the one that is asked for."""
    whole = {name: value for name, value in options.items() if name not in ("valid", "test", "labelled", "augment")}
    loaded = load_given(novel, given.model, role="student", task=given.task, valid=0, test=0, **whole).data
    chosen = loaded.parts.get(part, loaded.train)
    first, other = (each.batch([0]).inputs for each in (given.data.train, chosen))
    forms = [list(each.shape[1:]) if isinstance(each, Tensor) else [] for each in (first, other)]
    if loaded.kind != given.data.kind or (loaded.kind in ("image", "table") and forms[0] != forms[1]):
        raise ArgumentError(
            f"novel={novel!r} is of kind {loaded.kind!r}, {forms[1]}; the known data are {given.data.kind!r}, {forms[0]}. Give "
            "data that the model can read (images can be brought to one size by image_size=)."
        )
    return chosen


def novelty_of(task: Task, model: nn.Module, known: Part, novel: Part) -> dict[str, float]:
    """How well a model tells novel samples from known ones: see `limbeck.evaluation.novelty.novelty_metrics`."""
    from limbeck.evaluation.novelty import novelty_metrics

    return novelty_metrics(task.novelty(model, known), task.novelty(model, novel))


def run_config(path: str | Path) -> dict[str, Any]:
    """What a run was asked for."""

    file = Path(path) / "config.yaml"
    if not file.exists():
        raise RunError(f"{str(path)!r} is no run folder (no config.yaml): give data=.")
    return read(file)


def open_run(path: str | Path) -> Run:
    """A finished run from its folder, with its data and student loaded again."""
    from limbeck.students.save import load_module
    from limbeck.training.folder import RunFolder

    record, config = load_record(path), run_config(path)
    if str(config["data"]).startswith("<"):
        raise RunError(
            f"The run in {str(path)!r} was given data as a Python object; export it from Python: run.export(...)."
        )
    student = load_module(Path(path) / "student")
    given = load_given(config["data"], student, role="student", task=record["task"], seed=config.get("seed", 0),
                       **{key: config[key] for key in DATA_OPTIONS if key in config})  # fmt: skip
    return Run(student, record, task=given.task, data=given.data, folder=RunFolder(path))


def export_run(
    *, path: str | Path, format: str | None = None, out: str | None = None, tolerance: float = 1e-4
) -> Record:
    """Export the student of a finished run."""
    run = open_run(path)
    return run.export(None if out is None else Path(out).resolve(), format=format, tolerance=tolerance)


def report_run(*, path: str | Path, out: str | None = None) -> tuple[Record, Path]:
    """Write the report of a finished run again."""
    from limbeck.report.build import render

    record = load_record(path)
    return record, render(record, Path(out) if out else Path(path) / "report.html")
