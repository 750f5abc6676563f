"""Three losses that are usual for vectors, beside LEAF's."""

from __future__ import annotations

import numpy as np
from _embeddings import STORE, encoder, scores, sides, texts, untaught

import limbeck as lb

METRICS = ("mse", "l2", "cosine")
CLAIM = (
    "With each of the three losses (mean squared error, Euclidean distance, cosine) a static student is on STS-B above the "
    "best student without a teacher by 0.03, and its queries on the teacher's index of Cranfield have 95 % of the teacher's "
    "nDCG@10."
)
SEEDS = range(3)
NOTE = (
    "Teacher, texts, student and budget as in the proof of leaf; without the teacher: contrastive, then STS-B's scores."
)


def measure(seed: int) -> dict[str, float]:
    theirs = sides(encoder())
    row = {f"teacher_{key}": value for key, value in scores(theirs, theirs).items()}
    for name, recipe in {
        **{metric: lb.recipes.embedding_mse(metric=metric) for metric in METRICS},
        "leaf": "leaf",
    }.items():
        run = lb.distill(recipe, teacher=encoder(), student="static", data=texts(), task="embedding", length=64, test=0,
                         seed=seed, store=STORE, measure=False, progress=False)  # fmt: skip
        row |= {f"{name}_{key}": value for key, value in scores(sides(run.student), theirs).items()}
    return row | {f"untaught_{key}": value for key, value in scores(sides(untaught(seed)["labels"]), theirs).items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    holds = all(
        mean[f"{name}_sts"] > mean["untaught_sts"] + 0.03 and mean[f"{name}_asymmetric"] >= 0.95 * mean["teacher_ndcg"]
        for name in METRICS
    )
    told = ", ".join(
        f"{name} {mean[f'{name}_sts']:.3f} and {mean[f'{name}_asymmetric']:.3f}" for name in (*METRICS, "leaf")
    )
    return holds, (
        f"STS-B and nDCG@10 on the teacher's index: {told}; teacher {mean['teacher_sts']:.3f} and {mean['teacher_ndcg']:.3f}, "
        f"without a teacher {mean['untaught_sts']:.3f} on STS-B."
    )
