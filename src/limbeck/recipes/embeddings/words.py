"""A domain's words as tokens of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="BIOptimus: Pre-training an Optimal Biomedical Language Model with Curriculum Learning for Named Entity "
        "Recognition", year=2023, field="embeddings", needs=("features",), tasks=("embedding",))  # fmt: skip
def bioptimus(job: Job, words: int = 300, rows: Literal["contextual", "pieces", "random"] = "contextual", contexts: int = 20,
              layer: int = -1, pool: Literal["mean", "first", "last"] = "mean", store: str | None = None) -> Stage:  # fmt: skip
    """Give an encoder the data's frequent words as tokens that begin at what the old model made of them in sentences.

    limbeck distill bioptimus teacher=... student=... data=texts.jsonl words=300

    `teacher`: the old model; `student`: the same one (its folder), or a cut of it. The most frequent `words` that its tokenizer
    splits become tokens. A new input row is the mean, over up to `contexts` sentences of the data, of the old model's hidden
    states at the pieces of the word ("contextual": contextualized weight distillation, Pavlova and Makhlouf, 2023, who do not
    say `layer`, `contexts` and `pool`), the mean of the pieces' rows, or random; its length is that of the old rows. Then LEAF
    brings the student's vectors back to the old model's, in the place of the paper's masked language modelling in four phases.
    `store` as in `leaf`.
    """
    from limbeck.students.encoders import SentenceEncoder
    from limbeck.students.words import add_words, frequent_words, rows_in_context, rows_of_pieces
    from limbeck.training.job import derive

    old, new = getattr(job.teacher, "module", None), job.student
    if not isinstance(old, SentenceEncoder) or not isinstance(new, SentenceEncoder):
        raise ArgumentError(
            "bioptimus adds words to Transformers encoders: give teacher= and student= as their folders."
        )
    texts = job.data.train.texts  # type: ignore[attr-defined]
    if ("words", words) not in job.kept:
        job.kept["words", words] = frequent_words(old.tokenizer, texts, words)
    found = job.kept["words", words]
    if not found:
        raise ArgumentError("The tokenizer splits no word of the texts: there is nothing to add.")
    if len(found) < words:
        job.warn(f"The texts have {len(found)} words that the tokenizer splits, fewer than words={words}.")
    if rows == "contextual" and not job.rehearsal:
        key = ("rows", words, contexts, layer, pool)
        if key not in job.kept:
            job.kept[key] = rows_in_context(old, texts, found, contexts, layer, pool)
        start = job.kept[key]
    else:
        import torch

        draw = torch.Generator().manual_seed(derive(job.settings.seed, "words"))
        start = rows_of_pieces(old, found).cpu()
        start = torch.randn(start.shape, generator=draw) if rows == "random" else start
    add_words(new, found, start)
    return job.stage(o.squared_distance().on("embedding"), teacher=job.stored("embedding", at=store))
