"""One of six sources of other classes, chosen before training: whether the choice pays."""

from __future__ import annotations

import numpy as np
from _common import score, trained
from distill_weighted import FEW, sources

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On digits with 3 labels a class and six sources of other class sets, the student of DistillNearest is more accurate than "
    "one of a source by chance, and than one of the labels alone."
)
SEEDS = range(10, 15)
NOTE = (
    "The setting of `distill_weighted`, on other seeds: the same sources, 600 steps, hard 0.5. `by_chance`: the mean over the "
    "six students of one source each; `best`: of the best of them on the test part, what no choice can pass."
)


def measure(seed: int) -> dict[str, float]:
    every = sources(seed)
    near = lb.recipes.distill_nearest(hard=0.5, sources=every)
    alike = [
        score(trained(lb.recipes.distill_nearest(hard=0.5, sources=[one]), seed=seed, **FEW)) for one in every.values()
    ]
    return {"nearest": score(trained(near, seed=seed, **FEW)), "by_chance": float(np.mean(alike)), "best": max(alike),
            "alone": score(trained("alone", seed=seed, **FEW))}  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gaps = {name: paired(rows, "nearest", name) for name in ("by_chance", "alone")}
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    told = ", ".join(f"{gap:+.1f} ± {error:.1f} over {name.replace('_', ' ')}" for name, (gap, error) in gaps.items())
    return all(gap > 2 * error for gap, error in gaps.values()), (
        f"DistillNearest {mean['nearest']:.1f} %: {told}; the best of the six {mean['best']:.1f} %."
    )
