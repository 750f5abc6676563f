"""Recipes by name: `lb.recipes.dist(beta=2.0)`. Each is a function of a page; see `limbeck recipes` for all."""

from __future__ import annotations

from typing import Any

from limbeck.recipes.registry import Bound, Recipe, as_bound, find, recipe, recipes

__all__ = ["Bound", "Recipe", "as_bound", "find", "recipe", "recipes"]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    known = recipes()
    if name in known:
        return known[name]
    from limbeck.errors import nearest

    raise AttributeError(f"There is no recipe {name!r}.{nearest(name, known)}")


def __dir__() -> list[str]:
    return sorted([*__all__, *recipes()])
