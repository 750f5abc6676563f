"""Recipes that bring a small encoder into its teacher's space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage

Rows = Literal["auto", "teacher", "random"]
METRICS = {"mse": "feature_mse", "l2": "euclidean_distance", "cosine": "cosine_distance"}  # of the objectives


@recipe(paper="LEAF: Knowledge Distillation of Text Embedding Models with Teacher-Aligned Representations", year=2025,
        field="embeddings", needs=("logits",), tasks=("embedding",))  # fmt: skip
def leaf(job: Job, rows: Rows = "auto", store: str | None = None) -> Stage:
    """Give a text the teacher's vector, so that student queries search an index of teacher documents.

    limbeck distill leaf teacher=... student=static data=texts.jsonl

    Mean over texts of |y - t|^2, summed over the vector; no labels, pairs or negatives (LEAF, 2025; no training code is
    public). The student's linear map to the teacher's width is part of the model. The teacher reads every text once: its
    vectors are kept in the run's folder, or in `store`, where a later run finds them. `rows`: a static student begins at the
    teacher's vectors of single tokens ("teacher", which "auto" is for those) or at random.
    """
    job.begin_rows(rows)
    return job.stage(o.squared_distance().on("embedding"), teacher=job.stored("embedding", at=store))


@recipe(paper="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", year=2020,
        field="embeddings", needs=("logits",), tasks=("embedding",))  # fmt: skip
def embedding_mse(job: Job, metric: Literal["mse", "l2", "cosine"] = "mse", rows: Rows = "auto",
                  store: str | None = None) -> Stage:  # fmt: skip
    """Give a text the teacher's vector, by one of the losses that are usual for it.

    limbeck distill embedding_mse teacher=... student=static data=texts.jsonl metric=l2

    `metric`: "mse", the mean of (y - t)^2 over texts and numbers (Reimers and Gurevych, 2020); "l2", the mean of |y - t|;
    "cosine", the mean of 1 - cos(y, t): the three of sentence-transformers, whose linear map to the teacher's width is part of
    its loss, and of the student here. The mean over numbers is as many times smaller than LEAF's sum: Adam does not see it, a
    clipped gradient and weight decay do. `rows` and `store` are those of `leaf`.
    """
    job.begin_rows(rows)
    return job.stage(getattr(o, METRICS[metric])().on("embedding"), teacher=job.stored("embedding", at=store))
