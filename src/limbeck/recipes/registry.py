"""What a recipe is, and how the recipes that there are are found: by being there. No torch is imported here."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from limbeck.errors import ArgumentError, nearest

NEEDS = ("logits", "features", "answers", "labels", "unlabelled", "preferences", "prompts", "translations", "pairs")
FIELDS = (
    "classifiers", "drafters", "embeddings", "generative", "graphs-data", "language", "multimodal", "served", "students",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A published or house system: a function of a job with typed keyword arguments.

    Called with a job it returns its plan. Called without one it waits: `dist(beta=2.0)` is a `Bound` recipe.
    """

    name: str
    function: Callable[..., Any]
    field: str
    paper: str
    year: int
    needs: tuple[str, ...]
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, job: Any = None, /, **arguments: Any) -> Any:
        if job is None:
            return Bound(self, check_arguments(self, arguments))
        if not hasattr(job, "stage"):
            first = next(iter(self.parameters), None)
            raise ArgumentError(
                f"The recipe {self.name!r} was given {job!r}. "
                + (f"Arguments are given by name: {self.name}({first}={job!r})." if first else "It takes no arguments.")
            )
        return self.function(job, **arguments)

    @property
    def summary(self) -> str:
        """The idea in one sentence: the first line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its keyword arguments (all but the job), types resolved."""
        found = list(inspect.signature(self.function).parameters.values())[1:]
        scope = self.function.__globals__
        return {
            p.name: p.replace(annotation=eval(p.annotation, scope) if isinstance(p.annotation, str) else p.annotation)
            for p in found
        }

    def row(self) -> dict[str, Any]:
        """What `limbeck recipes` shows."""
        from limbeck.recipes.proofs import verdict

        return {
            "name": self.name, "field": self.field, "paper": self.paper, "year": self.year,
            "needs": list(self.needs), "verdict": verdict(self.name), "summary": self.summary,
        }  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """A recipe with its arguments, waiting for a job."""

    recipe: Recipe
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, job: Any) -> Any:
        return self.recipe(job, **self.arguments)


def recipe(*, paper: str, year: int, field: str, needs: tuple[str, ...] = ("logits",),
           tasks: tuple[str, ...] = ("classification",)) -> Callable[[Callable[..., Any]], Recipe]:  # fmt: skip
    """Declare a function of a job as a recipe. Its name is the function's.

    `needs`: what the user must have, out of "logits" (a teacher), "features" (its inside), "answers" (it writes), "labels",
    "unlabelled" inputs, "preferences" (chosen and rejected answers), "prompts" to be answered, texts with "translations",
    "pairs" of texts.
    """
    if field not in FIELDS:
        raise TypeError(f"field={field!r}: expected one of {FIELDS}")
    unknown = set(needs) - set(NEEDS)
    if unknown:
        raise TypeError(f"needs={sorted(unknown)}: expected some of {NEEDS}")

    def declare(function: Callable[..., Any]) -> Recipe:
        return Recipe(function.__name__, function, field, paper, year, needs, tasks)

    return declare


@functools.cache
def recipes() -> dict[str, Recipe]:
    """Every recipe by name, found in the modules of this package."""
    import limbeck.recipes as package

    found: dict[str, Recipe] = {}
    for info in pkgutil.walk_packages(package.__path__, "limbeck.recipes."):
        if info.ispkg or info.name.rsplit(".", 1)[-1] in (
            "registry",
            "proofs",
            "docs",
            "toy",
            "toy_language",
            "toy_embedding",
        ):
            continue
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Recipe):
                known = found.setdefault(value.name, value)
                if known is not value:
                    raise TypeError(f"two recipes are called {value.name!r}")
    return dict(sorted(found.items()))


def find(name: str) -> Recipe:
    """A recipe by name, hyphens or underscores. Unknown: ArgumentError with the nearest."""
    known = recipes()
    plain = name.strip().replace("-", "_")
    if plain not in known:
        raise ArgumentError(f"There is no recipe {name!r}.{nearest(plain, known)} `limbeck recipes` lists them all.")
    return known[plain]


def as_bound(value: Any, arguments: dict[str, Any] | None = None) -> Bound:
    """A bound recipe from a name, a recipe, or a bound one, with more arguments."""
    arguments = arguments or {}
    if isinstance(value, Bound):
        return Bound(value.recipe, check_arguments(value.recipe, {**value.arguments, **arguments}))
    if isinstance(value, str):
        value = find(value)
    if not isinstance(value, Recipe):
        raise ArgumentError(f"A {type(value).__name__} is not a recipe. Give a name, or lb.recipes.kd(temperature=4).")
    return Bound(value, check_arguments(value, arguments))


@functools.cache
def _model(recipe: Recipe) -> Any:
    """The pydantic model of a recipe's arguments, built when it is first used."""
    from pydantic import ConfigDict, create_model

    fields = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in recipe.parameters.items()
    }
    config = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return create_model(recipe.name, __config__=config, **fields)  # type: ignore[call-overload]


def check_arguments(recipe: Recipe, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments in their types. Unknown or ill-typed ones: ArgumentError that names them and the nearest right one."""
    for name, value in arguments.items():
        if name not in recipe.parameters:
            raise ArgumentError(
                f"The recipe {recipe.name!r} has no argument {name!r}.{nearest(name, recipe.parameters)}"
            )
        kinds = str(recipe.parameters[name].annotation)
        if isinstance(value, bool) and "bool" not in kinds:  # pydantic takes True for 1
            raise ArgumentError(f"{recipe.name}: {name}={value} is a yes or no; expected {kinds}.")
    try:
        from pydantic import ValidationError
    except ImportError:  # the engine runs without it; only the types go unchecked
        return dict(arguments)
    try:
        checked = _model(recipe)(**arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg'].lower()}" if e["type"] != "missing"
            else f"{'.'.join(map(str, e['loc']))} is missing" for e in error.errors()
        )  # fmt: skip
        raise ArgumentError(f"The recipe {recipe.name!r} cannot take {problems}.") from None
    return {name: getattr(checked, name) for name in arguments}
