"""Nothing heavy loads before it is used, and imports point one way."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "limbeck"
HEAVY = {
    "torch",
    "numpy",
    "transformers",
    "sklearn",
    "plotly",
    "accelerate",
    "pydantic",
    "pandas",
    "onnx",
    "onnxruntime",
}


def loaded(code, *words):
    """The heavy modules that are loaded after some code ran with these command-line words."""
    tail = "\nimport json, sys\nprint('LOADED' + json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code + tail, *words], capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(found.stdout.rsplit("LOADED", 1)[1]))


def command(*words):
    return f"import sys\nsys.argv = ['limbeck', *{list(words)!r}]\nfrom limbeck.cli import run\nassert run() == 0\n"


def test_import_limbeck_loads_nothing_heavy():
    assert loaded("import limbeck") == set()


@pytest.mark.parametrize(
    "words", [("--help",), ("distill", "--help"), ("recipes",), ("recipes", "--json"), ("--version",)]
)
def test_help_and_lists_do_not_load_torch(words):
    assert not loaded(command(*words)) & {"torch", "transformers", "sklearn", "accelerate", "plotly", "onnx"}


def test_recipes_are_found_without_torch():
    assert "torch" not in loaded("import limbeck as lb\nassert lb.recipes.kd.name == 'kd'")


ALLOWED = {
    "errors": set(),
    "functional": {"errors"},
    "signals": {"errors", "functional", "data", "tasks", "teachers"},  # the store runs a teacher over data
    "objectives": {"errors", "functional", "signals", "data"},
    "data": {"errors", "functional", "_optional", "disk"},
}


def imports(path):
    """The rooms of limbeck that a file imports when it is loaded (not those of type checkers, nor inside functions)."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("limbeck"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("limbeck.")}
    return found


@pytest.mark.parametrize("room", ["functional", "objectives", "data"])
def test_rooms_know_only_what_they_stand_on(room):
    for path in (SOURCE / room).rglob("*.py"):
        assert imports(path) <= ALLOWED[room] | {room}, path


def test_taps_and_steps_know_nothing_of_the_engine():
    for path in (SOURCE / "signals").glob("*.py"):
        assert not imports(path) & {"training", "recipes", "objectives", "report", "evaluation", "api", "cli"}, path


def test_nothing_imports_recipes_but_the_registry_and_what_the_user_calls():
    above = {"api.py", "trial.py", "cli.py", "describe.py", "proving.py", "comparing.py", "terms.py", "tuning.py",
             "automatic.py", "search_space.py", "trials.py", "selecting.py"}  # fmt: skip
    for path in SOURCE.rglob("*.py"):
        if "recipes" in path.relative_to(SOURCE).parts or path.name in above:
            continue
        assert "recipes" not in imports(path), path


def test_the_engine_names_no_recipe_and_no_part():
    for path in (SOURCE / "training").glob("*.py"):
        text = path.read_text()
        assert "objectives.library" not in text, path
        assert "limbeck.recipes" not in text, path
