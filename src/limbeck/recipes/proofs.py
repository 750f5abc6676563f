"""What the recorded proofs say: `proofs/results/<name>.json` in the repository, copied into the package when built."""

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
    packaged = Path(__file__).with_name("results.json")
    found: dict[str, dict[str, Any]] = json.loads(packaged.read_text()) if packaged.exists() else {}
    if results_folder().is_dir():
        for path in sorted(results_folder().glob("*.json")):
            record = json.loads(path.read_text())
            found[record["name"]] = record
    return found


def verdict(name: str) -> str:
    """ "stands", "failed" or "unproven"."""
    record = results().get(name)
    return record["verdict"] if record else "unproven"
