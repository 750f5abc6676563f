"""Search for a pipeline: recipe, its parts and numbers, and the learning rate together, within a budget of time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from limbeck._optional import need
from limbeck.comparing import finals
from limbeck.config import name_of, plain
from limbeck.disk import write_text
from limbeck.errors import ArgumentError, RunError
from limbeck.evaluation.run import remembering
from limbeck.recipes.registry import Recipe, find
from limbeck.recommend import Features, Pipeline, recommend
from limbeck.search_space import Space, asked, pipeline_of, trainable
from limbeck.terms import ALONE, Setting, refuse_single, take_folder
from limbeck.trials import Settings, alone_at_its_best, drawn, mattered, new_study, rate_of, row_of, search
from limbeck.tuning import Candidate, read_recipes

Record = dict[str, Any]
SPACE = "distiller,kd,dkd,dist,logit_standardization,pkt,simkd,review_kd,fitnets"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass
class Search:
    """What `auto` found. `record` is all of it in plain values."""

    record: Record
    path: Path | None = None

    @property
    def best(self) -> Candidate:
        """The pipeline that won: {"recipe", "arguments", "settings"}."""
        return self.record["best"]

    @property
    def verdict(self) -> str:
        """The result in one sentence or two."""
        return self.record["verdict"]

    def show(self) -> None:
        """Print what was recommended, tried, found, and what mattered."""
        from limbeck.report.automatic import show

        show(self.record)


def seconds_of(budget: Any) -> float:
    """A length of time in seconds: a number, or "90s", "20m", "1.5h"."""
    text = str(budget).strip()
    unit = UNITS.get(text[-1:].lower())
    try:
        found = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        found = math.nan
    if isinstance(budget, bool) or not 0 < found < math.inf:
        raise ArgumentError(f"budget={budget!r}: expected a length of time, such as 90s, 20m or 1.5h.")
    return found


def auto(*, data: Any, teacher: Any, student: Any = None, budget: Any = "20m", recipes: Any = None, trials: int | None = None,
         seeds: int = 3, out: str | Path | None = None, resume: bool = False, overwrite: bool = False, task: Any = None,
         earlier: Any = None, seed: int = 0, progress: bool | None = None, **options: Any) -> Search:  # fmt: skip
    """Recommend a pipeline, search for a better one, and train the winner beside what it must beat.

    `budget`: for all of it, "20m"; the search ends so that the last part fits in, where it can. `trials`: end it after so many
    at the latest. `recipes`: what is searched, as in `compare` (lists in brackets are choices); by default those of
    `automatic.SPACE` that fit. Searched together are the recipe, its parts (words), its numbers around their defaults, layers,
    the learning rate, and every option of data or training that is given as a list (augment=[flip,shift:1]). Trials are of one
    seed, judged by the validation part (`valid`, 0.15 of the training part where there is none), and ended early where they are
    hopeless; the teacher's signals are kept in memory between them. Then the winner, the recommendation, the best plain KD of
    the search and the student alone, at the best of three learning rates, are trained with `seeds` seeds, and the test part is
    looked at once.

    `earlier`: folders of earlier searches, of other tasks: what is recommended, and tried first, is then what boosted trees
    that were fitted to their trials expect most of, in place of the rules of `recommend`.

    `out`: a folder for the page, the record, the trials and the last runs; `resume` goes on with a search there, whose budget
    is what is left of it. Needs the extra `auto` (Optuna). Raises LimbeckError, before anything is trained, for what does not
    fit.
    """
    optuna = need("optuna", "auto")
    length, begun = seconds_of(budget), time.perf_counter()
    for name, value in (("seeds", seeds), ("trials", trials)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(f"{name}={value!r}: expected a whole number of 1 or more.")
    refuse_single(options, "search")
    if teacher is None:
        raise ArgumentError("A search needs a teacher=: what is searched is how to learn from it.")
    axes = {key: value for key, value in options.items() if isinstance(value, list) and key != "label"}
    fixed = {key: value for key, value in options.items() if key not in axes}
    known = read_recipes(SPACE if recipes is None else recipes)
    settings = Settings(data, teacher, student, task, seed, known, fixed)
    first = settings.of({key: values[0] for key, values in axes.items()})
    if first.task.name != "classification":
        raise ArgumentError(
            f"limbeck auto searches for classifiers, and this task is {first.task.name}. Use limbeck compare."
        )
    space = trainable(known, first, seed, strict=recipes is not None)
    features = features_of(first, student)
    begin = _begin(features, earlier, space, axes, seed)
    pipeline = begin[0][0]
    config = {
        "recipes": {label: plain(given) for label, (_, given) in space.items()}, "teacher": plain(teacher),
        "student": name_of(student), "seeds": seeds, "seed": seed, "data": first.name, "options": plain(options),
        "earlier": plain(earlier),
    }  # fmt: skip
    folder = None
    if out is not None:
        made = ("auto.html", "auto.json", "trials.log", "trials.log.lock", "search.json")  # the last says what it is
        folder = take_folder(Path(out), "search", made, config, resume, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / made[-1], json.dumps({"config": plain(config)}, indent=1, default=str) + "\n")
    study = new_study(optuna, folder, seed, first.task.best[1])
    if not study.get_trials(deepcopy=False):
        for _, choices in begin:
            study.enqueue_trial(choices, skip_if_exists=True)
    with remembering(*(first.teacher.modules() if first.teacher else [])):
        spent = search(study, space, settings, axes, length, trials, seeds, seed, begun, progress)
        done = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None
                and trial.state == optuna.trial.TrialState.COMPLETE]  # fmt: skip
        if not done:
            raise RunError(
                f"No trial came to its end in {length:g} s. Give a longer budget=, or fewer steps= for a training."
            )
        best = study.best_trial
        winner = pipeline_of(best.params, space, axes)
        rate = {"learning_rate": best.user_attrs["learning_rate"]}
        on = settings.of(winner["options"])
        last = {"best": (space[winner["label"]][0], winner["arguments"] | rate)}
        if any(getattr(pipeline, name) != winner[name] for name in ("recipe", "arguments", "factor")):
            last["recommended"] = _as_recommended(pipeline, on, seed)
        last["kd"] = _best_kd(study, done, space, axes)
        last[ALONE] = (find(ALONE), alone_at_its_best(on, find(ALONE), seed))
        record: Record = {
            "config": config, "title": f"A pipeline for {first.name}", "features": features.plain(),
            "recommended": {"recipe": pipeline.recipe, "arguments": pipeline.arguments, "factor": pipeline.factor,
                            "reasons": list(pipeline.reasons)},
            "best": {"recipe": winner["recipe"], "arguments": winner["arguments"], "settings": winner["options"] | rate,
                     "valid": best.value, "trial": best.number},
            "measure": first.task.best[0], "trials": [row_of(trial, space, axes) for trial in study.get_trials(deepcopy=False)
                                                            if trial.state.is_finished()],
            "mattered": mattered(optuna, study, winner["label"], seed), "search_seconds": round(spent, 1),
            "teacher_reads": settings.reads(),
        }  # fmt: skip
        record["finals"] = finals(on, last, seeds, seed, folder, progress)
    record["seconds"] = round(spent + time.perf_counter() - begun, 1)
    from limbeck.report.automatic import verdict

    record["verdict"] = verdict(record)
    if folder is not None:
        _write(record, folder)
    return Search(record, folder)


def _as_recommended(pipeline: Pipeline, on: Setting, seed: int) -> tuple[Recipe, Candidate]:
    recipe, way = find(pipeline.recipe), dict(pipeline.arguments)
    return recipe, way | {"learning_rate": rate_of(on, recipe, way, pipeline.factor, seed)}


def _best_kd(study: Any, done: list[Any], space: Space, axes: Mapping[str, list[Any]]) -> tuple[Recipe, Candidate]:
    """Plain KD as well as the search found it; where it was not searched, as it is."""
    tried = [trial for trial in done if trial.params["recipe"] == "kd" and "kd" in space]
    if not tried:
        return find("kd"), {}
    tuned = (max if study.direction.name == "MAXIMIZE" else min)(tried, key=lambda trial: trial.value)
    way = pipeline_of(tuned.params, space, axes)["arguments"]
    return find("kd"), way | {"learning_rate": tuned.user_attrs["learning_rate"]}


def _begin(
    features: Features, earlier: Any, space: Space, axes: Mapping[str, list[Any]], seed: int
) -> list[tuple[Pipeline, Record]]:
    """The pipelines that a search tries first, the recommended one before all, and how it names their choices."""
    found: list[tuple[Pipeline, Record]] = []
    if earlier is not None:
        from limbeck.experience import DRAWN, Experience, read_searches

        found = Experience(read_searches(earlier), seed).recommend(features.plain(), drawn(space, axes, DRAWN, seed))
    rules = [] if found else [recommend(features)]
    return found + [(each, asked(each, space, axes)) for each in (*rules, Pipeline("kd"))]


# what is asked ------------------------------------------------------------------------------------------------------------


def features_of(setting: Setting, student: Any) -> Features:
    """What is known of a task before any training."""
    from limbeck.evaluation.cost import parameters
    from limbeck.evaluation.run import evaluate
    from limbeck.signals.stages import stages
    from limbeck.students.build import build_student
    from limbeck.students.maker import default_student

    train, module = setting.data.train, next(iter(setting.teacher.modules()), None)
    spec = student if student is not None else default_student(setting.data, module)
    pupil = spec if isinstance(spec, nn.Module) else build_student(spec, setting.data, setting.task, module, 0)
    labels = train.labels
    scores = evaluate(setting.teacher, setting.data, setting.task, "valid")["scores"]
    small, large = parameters(pupil), 0 if module is None else parameters(module)
    layered = module is not None and bool(stages(pupil)) and bool(stages(module))
    return Features(
        setting.data.kind, len(train), 0 if labels is None else int((labels >= 0).sum()), len(setting.data.classes or []),
        large / max(small, 1), float(scores[setting.task.best[0]]), layered,
    )  # fmt: skip


# the folder ---------------------------------------------------------------------------------------------------------------


def _write(record: Record, folder: Path) -> None:
    from limbeck.report.automatic import page

    write_text(folder / "auto.json", json.dumps(record, indent=1, default=str) + "\n")
    write_text(folder / "auto.html", page(record))
