"""Fewer layers of the teacher's own, beside as many that begin at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from _embeddings import encoder, scores, sides, texts

import limbeck as lb
from limbeck.proving import paired
from limbeck.students.shrink import shrink

CLAIM = (
    "A student of two layers that begins as the first and last of its teacher's six is, after the same texts and updates by "
    "LEAF, above one of the same size that begins at random: on STS-B by 0.03, and by queries on the teacher's index of "
    "Cranfield by 0.03 of nDCG@10."
)
SEEDS = range(3)
NOTE = (
    "Teacher as in the proof of leaf; 7,503 of its texts, others for each seed; one pass in batches of 32 at 2e-4, matrix "
    "products in bfloat16. Both have 384 numbers, 12 heads and the teacher's word pieces, whose vectors are trained too. "
    "`start` is the cut teacher before training."
)
BUDGET: dict[str, Any] = {
    "task": "embedding", "length": 64, "test": 0, "epochs": 1, "precision": "bf16", "measure": False, "progress": False,
}  # fmt: skip
STUDENTS = {"cut": "shrink(depth=2)", "fresh": "encoder:2,384,12"}


def measure(seed: int) -> dict[str, float]:
    theirs, some, row = sides(encoder()), texts()[seed::5], {}
    models = {"start": shrink(encoder(), depth=2)}
    for name, student in STUDENTS.items():
        models[name] = lb.distill("leaf", teacher=encoder(), student=student, data=some, seed=seed, **BUDGET).student
    for name, model in models.items():
        found = scores(sides(model), theirs)
        row |= {f"{name}_{key}": found[key] for key in ("sts", "asymmetric")}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    sts, sts_error = paired(rows, "cut_sts", "fresh_sts")
    ndcg, ndcg_error = paired(rows, "cut_asymmetric", "fresh_asymmetric")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return sts > 0.03 and ndcg > 0.03, (
        f"STS-B {mean['cut_sts']:.3f} from {mean['start_sts']:.3f} at the start, at random {mean['fresh_sts']:.3f} "
        f"({sts:+.3f} ± {sts_error:.3f}); nDCG@10 on the teacher's index {mean['cut_asymmetric']:.3f} from "
        f"{mean['start_asymmetric']:.3f}, at random {mean['fresh_asymmetric']:.3f} ({ndcg:+.3f} ± {ndcg_error:.3f})."
    )
