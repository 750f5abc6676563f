"""Memory and time of the terms that compare samples, at batch 256: RKD's triangles, CRD's memory of 50,000 samples.

    python benchmarks/relations.py

Peak resident memory of one forward and backward pass over what was there before it, each in a fresh process with one thread.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

OUT = Path(__file__).resolve().parent / "results" / "relations.json"
BATCH, WIDTH, SAMPLES, NEGATIVES = 256, 64, 50_000, 16_384
CASES = ("relation_angle", "relation_distance", "neighbour_kl", "contrast")


def measured(name: str) -> dict[str, float]:
    import torch

    from limbeck import objectives as o
    from limbeck.data.base import Batch
    from limbeck.signals.step import Step

    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = Step(Batch(None, torch.arange(BATCH)), 0.0)
    step.put("self", {"x": torch.randn(BATCH, WIDTH, requires_grad=True)})
    step.put("teacher", {"x": torch.randn(BATCH, WIDTH)})
    if name == "contrast":
        term = o.contrast("x", "x", ids=torch.arange(SAMPLES), labels=torch.arange(SAMPLES) % 100, negatives=NEGATIVES)
    else:
        term = getattr(o, name)().on("x")
    before_made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    term.make(step, 0)
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the first product loads is not the term's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    term.values(step).backward()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"stays_mb": round((before - before_made) / 1024, 1), "peak_mb": round((peak - before) / 1024, 1),
            "ms": round(1000 * seconds, 1)}  # fmt: skip


def main() -> None:
    from limbeck.machine import describe

    rows = {}
    for name in CASES:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        print(name, rows[name])
    sizes = {"batch": BATCH, "width": WIDTH, "samples": SAMPLES, "negatives": NEGATIVES}
    OUT.write_text(json.dumps({"rows": rows, "sizes": sizes, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1]))) if len(sys.argv) > 1 else main()
