"""Limbeck: knowledge distillation, from a model that works to a small one that is nearly as good, with proof.

    import limbeck as lb
    run = lb.distill(lb.recipes.dist(beta=2.0), teacher=model, student="mlp:64", data="digits", out="runs/x")
    run.student; run.table; run.report; run.export("student.onnx")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from limbeck import functional, objectives, recipes
    from limbeck.advice import advise
    from limbeck.api import distill
    from limbeck.automatic import auto
    from limbeck.comparing import compare
    from limbeck.data import Data, load_data
    from limbeck.errors import LimbeckError
    from limbeck.functional.core import objective
    from limbeck.run import Run
    from limbeck.selecting import select
    from limbeck.signals.store import SignalStore, store_signals
    from limbeck.signals.taps import Taps
    from limbeck.students.save import load_module, save_model
    from limbeck.students.shrink import shrink
    from limbeck.teachers.load import load_model

_PLACES = {
    "distill": "limbeck.api", "advise": "limbeck.advice", "compare": "limbeck.comparing",
    "auto": "limbeck.automatic", "select": "limbeck.selecting",
    "Run": "limbeck.run", "LimbeckError": "limbeck.errors",
    "load_data": "limbeck.data", "Data": "limbeck.data", "Taps": "limbeck.signals.taps",
    "objective": "limbeck.functional.core", "compose": "limbeck.objectives.formula", "recipe": "limbeck.recipes.registry",
    "shrink": "limbeck.students.shrink", "load_model": "limbeck.teachers.load", "load_module": "limbeck.students.save",
    "save_model": "limbeck.students.save", "store_signals": "limbeck.signals.store", "SignalStore": "limbeck.signals.store",
}  # fmt: skip
_ROOMS = ("functional", "objectives", "recipes", "signals", "teachers", "students", "tasks", "data", "training",
          "evaluation", "export", "report")  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _ROOMS:
        return import_module(f"limbeck.{name}")
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_PLACES, *_ROOMS, "__version__"])
