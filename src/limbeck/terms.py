"""The equal terms of a comparison: its data sets with their teachers, its recipes with the ways to try them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import plain
from limbeck.disk import read
from limbeck.errors import ArgumentError, LimbeckError, RunError
from limbeck.given import DATA_OPTIONS, load_given
from limbeck.recipes.registry import Bound, Recipe
from limbeck.tuning import Candidate, candidates

Record = dict[str, Any]
ALONE = "alone"


OF_ONE_RUN = (
    "baseline",
    "export",
    "track",
    "dry_run",
    "monitor",
    "oracle",
    "generate",
    "checker",
    "measure",
    "lora",
    "watchers",
)


def refuse_single(options: Mapping[str, Any], what: str) -> None:
    """Raise ArgumentError for options of `distill` that mean nothing for many runs side by side."""
    for name in OF_ONE_RUN:
        if name in options:
            raise ArgumentError(f"{name}= is for a single run; a {what} has no use for it. Leave it out.")


def take_folder(path: Path, what: str, made: Sequence[str], config: Record, resume: bool, overwrite: bool) -> Path:
    """The folder of a comparison or search: new, gone on with, or cleared of what such a one made.

    `made`: the names of its files; the last holds {"config": ...} and says that it is one. Raises RunError for a folder that
    holds something else, or another one.
    """
    file = path / made[-1]
    if path.exists() and not path.is_dir():
        raise RunError(f"out={str(path)!r} is a file. Give a folder.")
    if file.exists() and overwrite:
        shutil.rmtree(path / "runs", ignore_errors=True)
        for name in made:
            (path / name).unlink(missing_ok=True)
    if file.exists():
        if not resume:
            raise RunError(
                f"out={str(path)!r} already holds a {what}. Go on with it by resume=true, or replace it by overwrite=true."
            )
        before = read(file)["config"]
        differing = [key for key in config if plain(before.get(key)) != plain(config[key])]
        if differing:
            told = "; ".join(f"{key}: {before.get(key)!r}, now {config[key]!r}" for key in differing)
            raise RunError(f"The {what} in {str(path)!r} was started with other arguments: {told}.")
    elif path.is_dir() and any(path.iterdir()):
        raise RunError(f"out={str(path)!r} is not empty and holds no {what}. Choose another folder.")
    return path


@dataclass
class Setting:
    """A data set with its teacher, and what is asked of every recipe on it."""

    name: str
    data: Any
    task: Any
    teacher: Any  # a Teacher, or None
    student: Any
    options: Record


@dataclass
class Entry:
    """A recipe in the comparison, and the ways in which it may be tried."""

    label: str
    recipe: Recipe
    ways: list[Candidate]


def read_settings(data: Any, teacher: Any, student: Any, task: Any, seed: int, recipes: Sequence[Recipe],
                  options: Mapping[str, Any]) -> list[Setting]:  # fmt: skip
    """Data sets and teachers, loaded. Raises ArgumentError where they are not as many, or recipes have no task in common."""
    from limbeck.teachers.base import as_teacher

    several = isinstance(data, list | tuple | Mapping) and not _is_rows(data)
    named = (
        data if isinstance(data, Mapping) and several else {_name(each): each for each in (data if several else [data])}
    )
    if several and len(named) < len(data):
        raise ArgumentError(f"data= names a set twice: {[_name(each) for each in data]}. Give a mapping from names.")
    if several and teacher is not None:
        teachers = (
            teacher
            if isinstance(teacher, Mapping)
            else dict(zip(named, teacher if isinstance(teacher, list) else [teacher]))
        )
        if set(teachers) != set(named):
            raise ArgumentError(
                f"{len(named)} data sets and {len(teachers)} teachers: give each set its own, in the same order."
            )
    else:
        teachers = dict.fromkeys(named, teacher)
    tasks = [recipe.tasks for recipe in recipes if recipe.name != ALONE]
    common = [name for name in (tasks[0] if tasks else ()) if all(name in each for each in tasks)]
    if tasks and not common:
        told = "; ".join(f"{recipe.name}: {', '.join(recipe.tasks)}" for recipe in recipes)
        raise ArgumentError(f"These recipes have no task in common ({told}).")
    of_data = {key: value for key, value in options.items() if key in DATA_OPTIONS}
    rest = {key: value for key, value in options.items() if key not in DATA_OPTIONS}
    found = []
    for name, spec in named.items():
        given = load_given(spec, teachers[name], student=student, task=task, tasks=common, seed=seed, **of_data)
        model = None if given.model is None else given.task.taught(as_teacher(given.model), given.data)
        found.append(Setting(name, given.data, given.task, model, student, rest))
    return found


def _is_rows(data: Any) -> bool:
    """Whether a list or mapping is one data set: rows, texts, or splits of such."""
    if isinstance(data, Mapping):
        return bool({"train", "valid", "test"} & set(data))
    return bool(data) and not (
        isinstance(data[0], str | Path) and (len(str(data[0])) < 200 and " " not in str(data[0]))
    )


def _name(spec: Any) -> str:
    from limbeck.data.base import Data

    if isinstance(spec, Data):
        return spec.name
    return Path(str(spec)).stem if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"


def read_entries(known: Mapping[str, tuple[Recipe, dict[str, Any]]], settings: Sequence[Setting], tune: int,
                 seed: int) -> tuple[list[Entry], dict[str, dict[str, float]]]:  # fmt: skip
    """The recipes with their ways, each tried on every set without training; and the bytes that a training of each takes."""
    found, memory = [], {setting.name: {} for setting in settings}  # type: ignore[var-annotated]
    for label, (recipe, given) in known.items():
        ways: list[Candidate] = []
        for setting in settings:
            if tune > 1 and "valid" not in setting.data.parts:
                raise ArgumentError(
                    f"tune={tune} chooses by a validation part, and {setting.name!r} has none: give valid=0.1."
                )
            first = candidates(recipe, given, 1, None, seed)[0]
            try:
                seen = train_once(setting, Bound(recipe, first), {}, seed, dry_run=True)
            except LimbeckError as error:
                raise type(error)(f"{label} on {setting.name}: {error}") from error
            rate = next(iter(seen["parameter_groups"].values()))[0]["rate"]
            ways = ways or candidates(recipe, given, tune, rate, seed)
            memory[setting.name][label] = sum(seen["estimated_bytes"].values()) - seen["estimated_bytes"]["teachers"]
        found.append(Entry(label, recipe, ways))
    return found, memory


def train_once(setting: Setting, bound: Bound, changes: Mapping[str, Any], seed: int, **more: Any) -> Any:
    """One run, or a dry one: of the recipe, with changed settings."""
    from limbeck.api import distill

    student = copy.deepcopy(setting.student) if isinstance(setting.student, nn.Module) else setting.student
    teacher = None if bound.recipe.name == ALONE else setting.teacher
    options = {**setting.options, **changes, "seed": seed}
    return distill(bound, teacher=teacher, student=student, data=setting.data, task=setting.task, measure=False, monitor=False,
                   progress=False, **options, **more)  # fmt: skip
