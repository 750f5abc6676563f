"""Recipes for pairs of texts, scored by two kinds of model that teach each other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Trans-Encoder: Unsupervised Sentence-Pair Modelling through Self- and Mutual-Distillations", year=2022,
        field="embeddings", needs=("pairs",), tasks=("ranking",))  # fmt: skip
def trans_encoder(job: Job, cycles: int = 3, cross_epochs: float = 1.0, ends: Literal["bi", "cross"] = "bi",
                  inherit: bool = False, peer: Any = None) -> Generator[Stage, Result, None]:  # fmt: skip
    """Let a bi-encoder and a cross-encoder of one body label pairs for each other in turns, without a label or a teacher.

    limbeck distill trans_encoder student=ranker:cosine,FOLDER data=pairs.jsonl task=ranking cycles=3

    Each cycle: a cross-encoder learns the bi-encoder's cosines, clipped to [0, 1], by binary cross-entropy, both orders of a
    pair, for `cross_epochs`; then a bi-encoder learns the cross-encoder's sigmoids by the mean squared error of its cosine, for
    the run's own epochs (Liu et al., 2022: 1 epoch of 32 and 10 of 128, AdamW at 2e-5 and 5e-5; they keep the best cycle by
    labelled pairs, here the last one stands). Each begins at the student's first weights, with `inherit` at those of the stage
    before. `peer`: a second encoder, by its folder or name: both are trained, and labels are the mean of the two ("mutual").
    `ends`: with which of the kinds the run ends.
    """
    from limbeck.students.encoders import SentenceEncoder
    from limbeck.students.rankers import VectorRanker, ranker
    from limbeck.tasks.ranking import labelled_pairs
    from limbeck.teachers.scores import GivenScores
    from limbeck.training.job import derive

    first = job.student
    if not (isinstance(first, VectorRanker) and first.cosine and isinstance(first.encoder, SentenceEncoder)):
        raise ArgumentError(
            "trans_encoder begins at a Transformers encoder with a cosine: student=ranker:cosine,FOLDER."
        )
    if cycles < 1:
        raise ArgumentError(f"cycles={cycles}: expected 1 or more.")
    # peers before the student: what is trained last is the run's student
    starts = [*([ranker("cosine", peer).encoder] if peer is not None else []), first.encoder]
    encoders, models = starts, [ranker("cosine", encoder) for encoder in starts]
    for number in range(2 * cycles - (ends == "cross")):
        kind: Literal["cross", "cosine"] = "cosine" if number % 2 else "cross"
        part = labelled_pairs(job, models, both_orders=kind == "cross")
        loss = (o.feature_mse() if kind == "cosine" else o.soft_binary_cross_entropy()).on("scores")
        length: dict[str, Any] = {"epochs": cross_epochs} if kind == "cross" and job.settings.epochs is not None else {}
        seed = derive(job.settings.seed, "head", number) % 2**31
        models = [ranker(kind, copy.deepcopy(each), seed=seed) for each in (encoders if inherit else starts)]
        for place, model in enumerate(models):
            if isinstance(model, VectorRanker):
                model.log_scale.requires_grad_(False)  # labels are cosines
            name = f"{'cross' if kind == 'cross' else 'bi'} {number // 2 + 1}" + f", model {place + 1}" * (
                len(models) > 1
            )
            yield job.stage(loss, student=model, teacher=GivenScores(), part=part, name=name, **length)
        encoders = [model.encoder for model in models]  # type: ignore[misc]
