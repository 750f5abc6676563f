"""What the recorded proofs say: `proofs/results/NAME.json` in a checkout, `verdicts.json` in an installed package."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

VERDICTS = ("stands", "failed", "unproven")


def results_folder() -> Path:
    """Where results lie: beside the sources in a checkout."""
    return Path(__file__).resolve().parents[3] / "proofs" / "results"


@functools.cache
def results() -> dict[str, dict[str, Any]]:
    """Every recorded proof by name."""
    if not results_folder().is_dir():
        found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("verdicts.json").read_text())
        return found
    found = {}
    for path in sorted(results_folder().glob("*.json")):
        record = json.loads(path.read_text())
        found[record["name"]] = record
    return found


def verdict(name: str) -> str:
    """ "stands", "failed" or "unproven"."""
    record = results().get(name)
    return record["verdict"] if record else "unproven"
