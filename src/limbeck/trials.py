"""The trials of `limbeck auto`: Optuna draws, a training judges, the hopeless ones end early."""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from limbeck._optional import need
from limbeck.config import plain
from limbeck.errors import ArgumentError, DivergedError, Interrupted, LimbeckError
from limbeck.recipes.registry import Bound, Recipe
from limbeck.search_space import Record, Space, pipeline_of, suggest
from limbeck.terms import Setting, read_settings, train_once

LEAST = 5  # trials before hopeless ones are stopped
RATES = (1 / 3, 1.0, 3.0)  # times the run's, of the student alone, which is tuned too
STOPPED = "Stopped. The same command with resume=true goes on; what was tried is kept in out=."


class Pruned(LimbeckError):
    """This trial is worse than most were at this point."""


class _Watch:
    """Tells a trial how its training goes, and ends what is hopeless."""

    def __init__(self, trial: Any, key: str):
        self.trial, self.key = trial, key

    def scored(self, loop: Any, scores: Mapping[str, float]) -> None:
        value = scores.get(self.key)
        if value is None or not math.isfinite(value):
            return
        self.trial.report(value, loop.number)
        if self.trial.should_prune():
            raise Pruned("worse than the median of the trials before it")


class Settings:
    """The data with each choice of its options, loaded when first asked for; one teacher for all."""

    def __init__(
        self, data: Any, teacher: Any, student: Any, task: Any, seed: int, known: Mapping[str, Any], fixed: Record
    ):
        self.given = (data, teacher, student, task, seed, [recipe for recipe, _ in known.values()])
        self.fixed, self.made = fixed, {}  # type: ignore[var-annotated]
        self.memories: list[Any] = []

    def of(self, chosen: Record) -> Setting:
        from limbeck.teachers.remembered import remember

        key = json.dumps(plain(chosen), sort_keys=True, default=str)
        if key not in self.made:
            data, teacher, student, task, seed, recipes = self.given
            options = {"valid": 0.15, **self.fixed, **chosen}
            found = read_settings(data, teacher, student, task, seed, recipes, options)
            if len(found) != 1:
                raise ArgumentError("limbeck auto searches on one data set. For several: limbeck compare.")
            if "valid" not in found[0].data.parts:
                raise ArgumentError(f"{found[0].name!r} has no validation part to judge trials by: give valid=0.15.")
            found[0].teacher = copy.copy(found[0].teacher)  # the user's own remembers nothing
            self.memories.append(remember(found[0].teacher, found[0].data.train))
            self.made[key] = found[0]
        return self.made[key]

    def reads(self) -> Record:
        """How many samples the teacher was asked for, and how many it read."""
        return {"asked": sum(each.asked for each in self.memories), "read": sum(each.read for each in self.memories)}


def new_study(optuna: Any, folder: Path | None, seed: int, direction: str) -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    if folder is not None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(folder / "trials.log")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # group and multivariate are called experimental
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=2 * LEAST)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=LEAST, n_warmup_steps=0)
    return optuna.create_study(
        study_name="limbeck", storage=storage, sampler=sampler, pruner=pruner, load_if_exists=True,
        direction="maximize" if direction == "max" else "minimize",
    )  # fmt: skip


def search(study: Any, space: Space, settings: Settings, axes: Mapping[str, list[Any]],
            length: float, most: int | None, seeds: int, seed: int, begun: float, progress: bool | None) -> float:  # fmt: skip
    """Try pipelines until the budget, less the last trainings, is spent; returns the seconds of earlier calls."""
    from limbeck.training.progress import counting

    before = sum((each.duration.total_seconds() for each in study.get_trials(deepcopy=False) if each.duration), 0.0)

    def left() -> float:
        whole = [each.duration.total_seconds() for each in study.get_trials(deepcopy=False)
                 if each.state.name == "COMPLETE" and each.duration]  # fmt: skip
        coming = (4 * seeds + len(RATES)) * sum(whole) / len(whole) if whole else 0.0
        return length - before - (time.perf_counter() - begun) - coming

    with counting("trials") if progress is not False else nullcontext() as bar:
        tried = len([each for each in study.get_trials(deepcopy=False)
                     if each.state.is_finished() and not each.user_attrs.get("stopped")])  # fmt: skip
        while left() > 0 and (most is None or tried < most):
            _one(study, space, settings, axes, seed)
            tried += 1
            if bar is not None:
                bar(tried, most or tried + 1)
    return before


def _one(study: Any, space: Space, settings: Settings, axes: Mapping[str, list[Any]],
         seed: int) -> None:  # fmt: skip
    """Draw a pipeline and train it. A trial that is interrupted counts as not made, and is made again."""
    optuna, trial = need("optuna", "auto"), study.ask()
    wanted = suggest(trial, space, axes)
    setting = settings.of(wanted["options"])
    watch = _Watch(trial, setting.task.best[0])
    recipe = space[wanted["label"]][0]
    try:
        rate = rate_of(setting, recipe, wanted["arguments"], wanted["factor"], seed)
        trial.set_user_attr("learning_rate", rate)
        run = train_once(setting, Bound(recipe, wanted["arguments"]), {"learning_rate": rate}, seed, watchers=[watch])
    except Pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    except (DivergedError, ArgumentError, ArithmeticError) as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    except (KeyboardInterrupt, Interrupted) as stop:
        trial.set_user_attr("stopped", True)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(dict(trial.params))  # it is tried again
        raise Interrupted(STOPPED) from stop
    score = _score(setting, run)
    if score is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    study.tell(trial, score)


def _score(setting: Setting, run: Any) -> float | None:
    """The best score of a run on the validation part."""
    over = (run.record.get("scores_over_time") or {}).get(setting.task.best[0], {}).get("value") or []
    return (max if setting.task.best[1] == "max" else min)(over) if over else None


def alone_at_its_best(setting: Setting, alone: Recipe, seed: int) -> Record:
    """The learning rate, out of `RATES` times the run's, at which the student alone is best on validation."""
    found = {}
    for factor in RATES:
        rate = rate_of(setting, alone, {}, factor, seed)
        try:
            found[rate] = _score(setting, train_once(setting, Bound(alone), {"learning_rate": rate}, seed))
        except DivergedError:
            continue
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(STOPPED) from stop
    scores = {rate: score for rate, score in found.items() if score is not None}
    sign = 1 if setting.task.best[1] == "max" else -1
    return {"learning_rate": max(scores, key=lambda rate: sign * scores[rate])} if scores else {}


def rate_of(setting: Setting, recipe: Recipe, arguments: Record, factor: float, seed: int) -> float:
    """The learning rate of a trial: the run's, times what was drawn."""
    base = setting.options.get("learning_rate")
    if base is None:
        seen = train_once(setting, Bound(recipe, arguments), {}, seed, dry_run=True)
        base = next(iter(seen["parameter_groups"].values()))[0]["rate"]
    return float(f"{float(base) * factor:.3g}")


def drawn(space: Space, axes: Mapping[str, list[Any]], count: int, seed: int) -> list[tuple[Record, Record]]:
    """`count` pipelines by chance: how a search names the choices of each, and what `pipeline_of` makes of them."""
    optuna = need("optuna", "auto")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    found = []
    for _ in range(count):
        trial = study.ask()
        pipeline = suggest(trial, space, axes)
        found.append((dict(trial.params), pipeline))
    return found


def row_of(trial: Any, space: Space, axes: Mapping[str, list[Any]]) -> Record:
    """What the record keeps of a trial; `pipeline` is what a later search learns from."""
    pipeline = {name: value for name, value in pipeline_of(trial.params, space, axes).items() if name != "label"}
    return {"trial": trial.number, "state": trial.state.name.lower(), "valid": trial.value, "with": dict(trial.params),
            "pipeline": pipeline,
            "seconds": round(trial.duration.total_seconds(), 2) if trial.duration else None,
            "error": trial.user_attrs.get("error")}  # fmt: skip


def mattered(optuna: Any, study: Any, label: str, seed: int) -> Record:
    """How much of what trials differ by goes with each choice: over all trials, and within the recipe that won."""
    done = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
    found: Record = {}
    groups = {"all trials": done, f"trials of {label}": [each for each in done if each.params["recipe"] == label]}
    for name, trials in groups.items():
        shared = set.intersection(*(set(each.params) for each in trials)) if trials else set()
        varied = [key for key in sorted(shared) if len({str(each.params[key]) for each in trials}) > 1]
        if len(trials) < 2 * LEAST or not varied or len({each.value for each in trials}) < 2:
            continue
        part = optuna.create_study(direction=study.direction)
        part.add_trials(trials)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        found[name] = optuna.importance.get_param_importances(part, evaluator=evaluator, params=varied)
    return found
