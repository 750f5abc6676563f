"""Proofs: experiments that show that a recipe does what it claims, and that could have failed.

A proof is `proofs/NAME.py` with

    CLAIM = "one sentence"
    SEEDS = range(5)
    def measure(seed: int) -> dict[str, float]: ...        # numbers of one seed
    def judge(rows: list[dict[str, float]]) -> tuple[bool, str]: ...   # does the claim hold, and what was found

and optionally `NOTE`, what was made smaller or learnt. `limbeck prove NAME` writes `proofs/results/NAME.json`.
"""

from __future__ import annotations

import ast
import datetime
import importlib.util
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.disk import write_text
from limbeck.errors import ArgumentError, RunError, nearest
from limbeck.recipes.proofs import results_folder, verdict


@dataclass(frozen=True)
class Proof:
    """A proof that is there, not yet run: what its file says."""

    name: str
    path: Path
    claim: str

    @property
    def verdict(self) -> str:
        return verdict(self.name)


def proofs() -> dict[str, Proof]:
    """Every proof by name, read without being run."""
    folder = results_folder().parent
    if not folder.is_dir():
        raise RunError(
            "The proofs are part of a checkout of Limbeck, not of an installed package. Clone the repository."
        )
    found = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        claim = next(
            (ast.literal_eval(node.value) for node in ast.parse(path.read_text()).body
             if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CLAIM"), None,
        )  # fmt: skip
        if claim is None:
            raise RunError(f"{path} makes no claim: a proof has CLAIM, measure(seed) and judge(rows).")
        found[path.stem] = Proof(path.stem, path, claim)
    return found


def run_proof(name: str) -> dict[str, Any]:
    """Run a proof over its seeds and record what came out, whatever it is."""
    from limbeck.machine import describe

    known = proofs()
    name = name.replace("-", "_")
    if name not in known:
        raise ArgumentError(f"There is no proof {name!r}.{nearest(name, known)}")
    specification = importlib.util.spec_from_file_location(f"limbeck_proof_{name}", known[name].path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(known[name].path.parent))  # what proofs share lies beside them
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    begun = time.perf_counter()
    rows = []
    for seed in module.SEEDS:
        rows.append({"seed": seed, **module.measure(seed)})
        print(
            f"  {name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items() if k != "seed"),
            flush=True,
        )
    stands, finding = module.judge(rows)
    columns = [key for key in rows[0] if key != "seed"]
    record = {
        "name": name, "claim": known[name].claim, "verdict": "stands" if stands else "failed", "finding": finding,
        "note": getattr(module, "NOTE", ""), "rows": rows,
        "mean": {key: statistics.fmean(row[key] for row in rows) for key in columns},
        "std": {key: statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0 for key in columns},
        "seconds": round(time.perf_counter() - begun, 1), "machine": describe(),
        "date": datetime.date.today().isoformat(), "command": f"limbeck prove {name}",
    }  # fmt: skip
    results_folder().mkdir(parents=True, exist_ok=True)
    write_text(results_folder() / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def paired(rows: list[dict[str, float]], ours: str, theirs: str) -> tuple[float, float]:
    """Mean and standard error of ours - theirs over seeds."""
    gaps = [row[ours] - row[theirs] for row in rows]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return statistics.fmean(gaps), error
