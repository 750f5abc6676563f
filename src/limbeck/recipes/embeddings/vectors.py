"""Recipes that bring a small encoder into its teacher's space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage

Rows = Literal["auto", "teacher", "random"]


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
