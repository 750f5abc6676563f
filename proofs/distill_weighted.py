"""Six sources of other classes and few labels: whether PARC tells which will teach well, and whether weights by it pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _common import score, trained
from torch import Tensor, nn

import limbeck as lb
from limbeck.functional import rank_correlation
from limbeck.proving import paired
from limbeck.recipes.registry import recipe

CLAIM = (
    "On digits with 3 labels a class and six sources of other class sets, of which some read turned or other pictures, the "
    "student of DistillWeighted is more accurate than one of a source by chance, of all sources alike, and of the labels "
    "alone; and the rank correlation between a source's PARC and the accuracy of its student is above 0.5."
)
SEEDS = range(5)
NOTE = (
    "Student mlp:32, 600 steps; power 12, hard 0.5 wherever there are sources (of 0.8, 0.5, 0.2, on another seed). Sources, "
    "cnn:16: digits 0 to 4; 5 to 9; eight digits; 0 to 4 turned by 90 degrees; two digits, turned by 180; and stripes of noise "
    "in four directions. `by chance`: the mean over the six students of one source each."
)
FEW: dict[str, Any] = {"labelled": 30, "steps": 600}


def digits(classes: list[int], turns: int = 0) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    keep = np.isin(found.target, classes)
    images = np.rot90(found.images[keep], turns, axes=(1, 2)).copy()[:, None].astype(np.float32) / 16
    return images, np.array([classes.index(label) for label in found.target[keep]])


def stripes() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:8, :8]
    waves = [rows, columns, rows + columns, rows - columns]
    labels = draw.integers(4, size=800)
    images = np.stack([np.sin(waves[y] * draw.uniform(0.8, 2) + draw.uniform(0, 6)) for y in labels])[:, None]
    return ((images + draw.normal(size=images.shape)) / 4 + 0.5).astype(np.float32), labels


def sources(seed: int) -> dict[str, nn.Module]:
    tasks = {
        "low": digits([0, 1, 2, 3, 4]), "high": digits([5, 6, 7, 8, 9]), "eight": digits([0, 1, 2, 4, 5, 6, 8, 9]),
        "turned": digits([0, 1, 2, 3, 4], 1), "two": digits([3, 7], 2), "stripes": stripes(),
    }  # fmt: skip
    return {
        name: trained("alone", seed=seed, data=data, student="cnn:16", steps=300).student
        for name, data in tasks.items()
    }


@recipe(paper="DistillWeighted with equal weights", year=2023, field="classifiers", needs=("labels",))
def equally(job: Any, sources: Any = None) -> Any:
    """The same losses with all sources alike: the power 0 that the recipe refuses."""
    return lb.recipes.distill_weighted(sources=sources, power=1e-9, hard=0.5)(job)


def parcs(run: Any) -> dict[str, float]:
    """Each source's PARC, as the report tells it."""
    text = next(text for text in run.record["warnings"] if text.startswith("Similarity"))
    told = text.partition("resamples: ")[2].split("; ")
    return {each.split()[0]: float(each.split()[1]) for each in told}


def measure(seed: int) -> dict[str, float]:
    every = sources(seed)
    row = {"alone": score(trained("alone", seed=seed, **FEW))}
    weighted = trained(lb.recipes.distill_weighted(sources=every, hard=0.5), seed=seed, **FEW)
    row["weighted"], near = score(weighted), parcs(weighted)
    row["nearest"] = score(trained(lb.recipes.distill_nearest(sources=every, hard=0.5), seed=seed, **FEW))
    row["equally"] = score(trained(equally(sources=every), seed=seed, **FEW))
    for name, module in every.items():
        row[f"of_{name}"] = score(
            trained(lb.recipes.distill_nearest(sources={name: module}, hard=0.5), seed=seed, **FEW)
        )
        row[f"parc_{name}"] = near[name]
    row["by_chance"] = float(np.mean([row[f"of_{name}"] for name in every]))
    row["correlation"] = rank_correlation(*(_values(row, kind, every) for kind in ("parc", "of")))
    return row


def _values(row: dict[str, float], kind: str, names: Any) -> Tensor:
    return torch.tensor([row[f"{kind}_{name}"] for name in names])


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gaps = {name: paired(rows, "weighted", name) for name in ("by_chance", "equally", "alone")}
    correlation = float(np.mean([row["correlation"] for row in rows]))
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    stands = all(gap > 2 * error for gap, error in gaps.values()) and correlation > 0.5
    told = ", ".join(f"{gap:+.1f} ± {error:.1f} over {name.replace('_', ' ')}" for name, (gap, error) in gaps.items())
    return stands, (
        f"DistillWeighted {mean['weighted']:.1f} %, DistillNearest {mean['nearest']:.1f} %, labels alone "
        f"{mean['alone']:.1f} %: weighted {told}; rank correlation of PARC and accuracy {correlation:.2f}."
    )
