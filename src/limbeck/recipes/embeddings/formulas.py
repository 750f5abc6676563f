"""Recipes in which a student is computed, not trained: their one stage has no steps, and it is measured as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Model2Vec: Fast State-of-the-Art Static Embeddings", year=2024, field="embeddings", needs=("features",),
        tasks=("embedding",))  # fmt: skip
def model2vec(job: Job, a: float = 1e-4) -> Stage:
    """Make a table of token vectors out of the teacher's single tokens alone: no training, and no text to train on.

    limbeck distill model2vec teacher=... student=static:256 data=texts.jsonl

    A row is the teacher's vector of the token between its special tokens, before it is normalised; all are centred, brought to
    their principal directions (as many as the table is wide: 256 in the paper's code) and weighted by a / (a + p), p after
    Zipf's law over the rows (Minish Lab, 2024). Unlike the published models the student ends in a linear map back into the
    teacher's space, so that it searches the teacher's index too, and keeps tokens that are never used. The data are what it is
    measured on; `leaf` begins at the same table and trains it.
    """
    job.begin_rows("teacher", a)
    return job.stage(o.squared_distance().on("embedding"), steps=0)


@recipe(paper="Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", year=2019, field="embeddings",
        needs=("logits",), tasks=("embedding",))  # fmt: skip
def dimension_reduction(job: Job, dimensions: int | float = 0.5, texts: int = 20_000) -> Stage:
    """Let an encoder end in fewer numbers: the directions in which the teacher's vectors of the data's texts differ most.

    limbeck distill dimension_reduction teacher=... student=... data=texts.jsonl dimensions=128

    `student`: the teacher's folder again, or any encoder in its space, such as one that `leaf` made. The directions are PCA's
    on at most `texts` training texts, a linear map without a bias that is part of the model and is not trained (a recipe of
    sentence-transformers, the library of Reimers and Gurevych, 2019). `dimensions`: a count, or a share of the teacher's. The
    vectors are in a space of their own: to train a narrower student, give this one to `leaf` as its teacher.
    """
    from limbeck.data.splits import spread, take
    from limbeck.evaluation.embeddings import vectors
    from limbeck.students.cut import sized
    from limbeck.students.encoders import Encoder
    from limbeck.students.reduce import end_in, principal_directions

    if not isinstance(job.student, Encoder):
        raise ArgumentError(
            f"dimension_reduction adds a linear map to its student, and a {type(job.student).__name__} has no place for one: "
            "give student= as a folder, not as an object."
        )
    count = sized(dimensions, job.student.width, "dimensions")
    part = take(job.data.train, spread(len(job.data.train), 4 * count if job.rehearsal else texts), "train")
    end_in(job.student, principal_directions(vectors(job.task, job.teacher, part), count))
    return job.stage(o.gram_rows_mse().on("embedding"), steps=0)  # which compares vectors of any width, in a dry run
