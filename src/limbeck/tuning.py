"""What a recipe may be tried with: as many candidates for each, drawn from its arguments and the learning rate."""

from __future__ import annotations

import ast
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import ArgumentError
from limbeck.recipes.registry import Bound, Recipe, as_bound, find
from limbeck.signals.step import derive

Candidate = dict[str, Any]  # arguments of the recipe, and settings of the training


def read_recipes(given: Any) -> dict[str, tuple[Recipe, dict[str, Any]]]:
    """Recipes by what the user calls them, each with the arguments that were given, lists where there are several values.

    `given`: names in a list or with commas, "kd,dkd(beta=[1,2,8])", bound recipes, or a mapping from a label to one of these.
    """
    if isinstance(given, Mapping):
        return {str(label): _read(each) for label, each in given.items()}
    if isinstance(given, str):
        given = _split(given)
    if not isinstance(given, Sequence) or not given:
        raise ArgumentError(f"recipes={given!r}: expected names, such as kd,dkd,dist.")
    found: dict[str, tuple[Recipe, dict[str, Any]]] = {}
    for each in given:
        recipe, arguments = _read(each)
        label = each.strip() if isinstance(each, str) else _label(recipe, arguments)
        if label in found:
            raise ArgumentError(f"recipes= names {label!r} twice. Give one of them another argument, or leave it out.")
        found[label] = (recipe, arguments)
    return found


def _label(recipe: Recipe, arguments: Mapping[str, Any]) -> str:
    return recipe.name + (f"({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else "")


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    found, depth = [""], 0
    for letter in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [each.strip() for each in found if each.strip()]


def _read(given: Any) -> tuple[Recipe, dict[str, Any]]:
    if isinstance(given, Bound):
        return given.recipe, dict(given.arguments)
    if isinstance(given, Recipe):
        return given, {}
    if not isinstance(given, str):
        raise ArgumentError(f"A {type(given).__name__} is not a recipe. Give a name, or lb.recipes.kd(temperature=4).")
    name, _, rest = given.strip().partition("(")
    recipe = find(name)
    if not rest:
        return recipe, {}
    try:
        call = ast.parse(given.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("arguments need names")
        arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(
            f"The recipe {given!r} cannot be read ({error}). Write it as in kd(temperature=2)."
        ) from error
    return recipe, arguments


def candidates(recipe: Recipe, given: Mapping[str, Any], count: int, rate: float | None, seed: int) -> list[Candidate]:
    """`count` ways to run a recipe, the first of them as it was given (of lists the first values), the same for the same seed.

    Arguments given as lists are drawn from these. Where there is none, each argument that is a positive number is drawn
    around its value: one of 1 or more from a quarter to four times of it, evenly on a logarithmic scale, one below 1 on the
    logit scale, so that shares stay shares. The learning rate `rate` is drawn from half to twice of it, for every recipe.
    Raises ArgumentError for arguments that the recipe does not take.
    """
    lists = {name: list(value) for name, value in given.items() if _several(recipe, name, value)}
    fixed = {name: value for name, value in given.items() if name not in lists}
    for values in itertools.zip_longest(*lists.values()):
        as_bound(recipe, fixed | {name: value for name, value in zip(lists, values) if value is not None})
    as_bound(recipe, fixed)
    first = fixed | {name: several[0] for name, several in lists.items()}
    found = [first]
    draw = random.Random(derive(seed, "candidates", recipe.name))
    for _ in range(count - 1):
        each = dict(first)
        for name, several in lists.items():
            each[name] = draw.choice(several)
        if not lists:
            for name, parameter in recipe.parameters.items():
                if name not in fixed and parameter.annotation is float and 0 < parameter.default < math.inf:
                    each[name] = float(f"{_near(parameter.default, draw):.3g}")
        if rate is not None:
            each["learning_rate"] = float(f"{rate * 2 ** draw.uniform(-1, 1):.3g}")
        found.append(each)
    return found


def _several(recipe: Recipe, name: str, value: Any) -> bool:
    """Whether a value is a list of values to try, and not one that is a list."""
    kind = str(recipe.parameters[name].annotation) if name in recipe.parameters else ""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and not any(word in kind for word in ("list", "tuple", "Sequence"))
    )


def _near(value: float, draw: random.Random) -> float:
    if value >= 1:
        return value * 2 ** draw.uniform(-2, 2)
    return 1 / (1 + math.exp(-(math.log(value / (1 - value)) + draw.uniform(-1.5, 1.5))))
