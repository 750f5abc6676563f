"""What `limbeck auto` searches: recipes, their parts and numbers, the learning rate and options, in one space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.recipes.registry import Bound, Recipe
from limbeck.recommend import Pipeline
from limbeck.terms import Setting, train_once

Record = dict[str, Any]
Space = Mapping[str, tuple[Recipe, Record]]  # by what the user calls it
RATE = "times the learning rate"
NEEDED = {  # parts of a recipe that mean something beside one choice only
    ("distiller", "alpha"): ("intermediate", ("mi",)),
    ("distiller", "layers"): ("intermediate", ("mi", "mse", "cosine", "cka")),
    ("distiller", "layer_map"): ("intermediate", ("mi", "mse", "cosine", "cka")),
    ("distiller", "weight"): ("intermediate", ("mi", "mse", "cosine", "cka")),
    ("distiller", "temperature"): ("prediction", ("kl", "ce")),
}


def trainable(known: Space, setting: Setting, seed: int, strict: bool) -> dict[str, tuple[Recipe, Record]]:
    """The recipes that can be trained here; what cannot is left out, or with `strict` an error."""
    found, why = {}, []
    for label, (recipe, given) in known.items():
        first = {name: value[0] if isinstance(value, list) else value for name, value in given.items()}
        try:
            train_once(setting, Bound(recipe, first), {}, seed, dry_run=True)
        except LimbeckError as error:
            if strict:
                raise type(error)(f"{label} on {setting.name}: {error}") from error
            why.append(f"{label}: {error}")
            continue
        found[label] = (recipe, given)
    if not found:
        raise ArgumentError(f"No recipe of the space can be trained here. {why[0]}")
    return found


def axes_of(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe is searched: its words, numbers around their defaults, and lists that were given."""
    lists = {name: value for name, value in given.items() if isinstance(value, list)}
    if lists:
        return {name: list(values) for name, values in lists.items()}
    found: dict[str, Any] = {}
    for name, parameter in recipe.parameters.items():
        kind, default = parameter.annotation, parameter.default
        if name in given:
            continue
        if get_origin(kind) is not None and isinstance(default, str) and get_args(kind):
            found[name] = list(get_args(kind))
        elif kind is float and 0 < default < math.inf:
            found[name] = (default / 4, default * 4) if default >= 1 else _share(default)
        elif kind is int and name == "layers":
            found[name] = [1, 2, 3]
    return found


def _share(value: float) -> tuple[float, float]:
    """Around a share on the logit scale."""
    middle = math.log(value / (1 - value))
    return tuple(1 / (1 + math.exp(-(middle + gap))) for gap in (-2.0, 2.0))  # type: ignore[return-value]


def suggest(trial: Any, space: Space, axes: Mapping[str, list[Any]]) -> Record:
    """Draw a pipeline. Names: "recipe", "<recipe>.<argument>", "<option>"."""
    label = trial.suggest_categorical("recipe", list(space))
    recipe, given = space[label]
    for name, values in axes_of(recipe, given).items():
        on = NEEDED.get((recipe.name, name))
        if on is not None and trial.params.get(f"{label}.{on[0]}", given.get(on[0], on[1][0])) not in on[1]:
            continue
        if isinstance(values, list):
            trial.suggest_categorical(f"{label}.{name}", values)
        else:
            trial.suggest_float(f"{label}.{name}", *values, log=True)
    trial.suggest_float(RATE, 1 / 3, 3, log=True)
    for name, values in axes.items():
        trial.suggest_categorical(name, values)
    return pipeline_of(trial.params, space, axes)


def pipeline_of(params: Mapping[str, Any], space: Space, axes: Mapping[str, Any]) -> Record:
    label = params["recipe"]
    recipe, given = space[label]
    way = {name: value for name, value in given.items() if not isinstance(value, list)}
    way |= {name.removeprefix(f"{label}."): float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in params.items() if name.startswith(f"{label}.")}  # fmt: skip
    return {"label": label, "recipe": recipe.name, "arguments": way, "factor": params.get(RATE, 1.0),
            "options": {name: params[name] for name in axes if name in params}}  # fmt: skip


def asked(pipeline: Pipeline, space: Space, axes: Mapping[str, list[Any]]) -> Record:
    """A pipeline as the first trials get it; what it does not say is drawn."""
    of_it = [label for label, (recipe, _) in space.items() if recipe.name == pipeline.recipe]
    label, wants = (of_it[0], pipeline.arguments) if of_it else (next(iter(space)), {})
    recipe, given = space[label]
    found: Record = {"recipe": label, RATE: 1.0, **{name: values[0] for name, values in axes.items()}}
    for name, values in axes_of(recipe, given).items():
        wanted = wants.get(name, recipe.parameters[name].default)
        inside = wanted in values if isinstance(values, list) else values[0] <= wanted <= values[1]
        if inside:
            found[f"{label}.{name}"] = wanted
    return found
