"""Recipes that bring a small encoder into its teacher's space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Inputs
    from limbeck.objectives.formula import Formula
    from limbeck.signals.step import Step
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage

Rows = Literal["auto", "teacher", "random"]
Metric = Literal["mse", "l2", "cosine"]


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


def _distance(metric: Metric) -> Formula:
    return {"mse": o.feature_mse, "l2": o.euclidean_distance, "cosine": o.cosine_distance}[metric]()


@recipe(paper="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", year=2020,
        field="embeddings", needs=("logits",), tasks=("embedding",))  # fmt: skip
def embedding_mse(job: Job, metric: Metric = "mse", rows: Rows = "auto",
                  store: str | None = None) -> Stage:  # fmt: skip
    """Give a text the teacher's vector, by one of the losses that are usual for it.

    limbeck distill embedding_mse teacher=... student=static data=texts.jsonl metric=l2

    `metric`: "mse", the mean of (y - t)^2 over texts and numbers (Reimers and Gurevych, 2020); "l2", the mean of |y - t|;
    "cosine", the mean of 1 - cos(y, t): the three of sentence-transformers, whose linear map to the teacher's width is part of
    its loss, and of the student here. The mean over numbers is as many times smaller than LEAF's sum: Adam does not see it, a
    clipped gradient and weight decay do. `rows` and `store` are those of `leaf`.
    """
    job.begin_rows(rows)
    return job.stage(_distance(metric).on("embedding"), teacher=job.stored("embedding", at=store))


@recipe(paper="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", year=2020,
        field="embeddings", needs=("logits", "translations"), tasks=("embedding",))  # fmt: skip
def multilingual(job: Job, metric: Metric = "mse", rows: Rows = "auto",
                 store: str | None = None) -> Stage:  # fmt: skip
    """Give a text and its translation one vector, the teacher's of the text, so that languages come to lie in its space.

    limbeck distill multilingual teacher=... student=grams data=pairs.jsonl text=source translation=target

    The sum of two losses, student(text) and student(translation) against teacher(text): the teacher need not know the other
    language (Reimers and Gurevych, 2020, whose student is a pretrained multilingual Transformer). `student`: anything that
    reads both languages, such as "grams", hashed words and letters. `metric`, `rows` and `store` are those of `embedding_mse`;
    the teacher reads each text once, and no translation.
    """

    def translation(batch: Batch, step: Step) -> Inputs:
        return job.task.view(replace(batch, inputs=batch.extra["translation"]), job.student, "student")

    job.begin_rows(rows)
    both = _distance(metric).on("embedding") + _distance(metric).on("self/translation:embedding", "embedding")
    return job.stage(both, teacher=job.stored("embedding", at=store), views={"student/translation": translation})
