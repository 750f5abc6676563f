"""Recipes side by side against each by itself: the teacher's reads, and the time.

    python benchmarks/compare.py [--recipes kd,dkd,...] [--steps 100]

One seed on digits, a convolutional teacher and a small student. Every recipe is trained by itself by `limbeck distill`, and all
of them in one `limbeck compare` (with the student alone on top): one process, one thread. What the teacher's module reads is
counted at its forward pass, looks before the training and the test part included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import limbeck as lb
from limbeck.students.build import cnn
from limbeck.students.declare import seeded

OUT = Path(__file__).resolve().parent / "results" / "compare.json"
RECIPES = "kd,dkd,dist,nkd,logit_standardization,similarity_preserving,rkd,attention_transfer"


def counted(module: torch.nn.Module) -> dict[str, float]:
    """What the module has read, counted from now on."""
    seen: dict[str, float] = {"batches": 0, "samples": 0}

    def count(_: Any, inputs: Any) -> None:
        seen["batches"] += 1
        seen["samples"] += len(inputs[0])

    module.register_forward_pre_hook(count)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.recipes.split(",")
    with seeded(0):
        teacher = cnn(1, 10, width=64, depth=3, size=8).eval()
    options: dict[str, Any] = {"data": lb.load_data("digits"), "student": "cnn(width=8, depth=2)", "steps": given.steps,
                               "batch_size": 64, "progress": False, "evaluate_every": given.steps}  # fmt: skip
    rows = {}
    for way in ("apart", "together"):
        seen = counted(teacher)
        before = dict(seen)
        wall, processor = time.perf_counter(), time.process_time()
        if way == "apart":
            for name in names:
                lb.distill(name, teacher=teacher, measure=False, **options)
        else:
            lb.compare(recipes=names, teacher=teacher, seeds=1, **options)
        rows[way] = {
            "teacher_samples": seen["samples"] - before["samples"], "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - processor, 2),
        }  # fmt: skip
        print(way, rows[way], flush=True)
        teacher._forward_pre_hooks.clear()
    rows["share"] = round(rows["together"]["teacher_samples"] / rows["apart"]["teacher_samples"], 4)  # type: ignore[assignment]
    print(f"The teacher reads {rows['share']} of what it reads for {len(names)} recipes apart.")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"recipes": names, "steps": given.steps, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
