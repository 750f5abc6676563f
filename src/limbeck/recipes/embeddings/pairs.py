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
    from limbeck.students.rankers import ranker
    from limbeck.tasks.ranking import labelled_pairs
    from limbeck.teachers.scores import GivenScores

    if cycles < 1:
        raise ArgumentError(f"cycles={cycles}: expected 1 or more.")
    # peers before the student: what is trained last is the run's student
    starts = [*([ranker("cosine", peer).encoder] if peer is not None else []), _encoder(job)]
    encoders, models = starts, _rankers(job, "cosine", starts, 0)
    for number in range(2 * cycles - (ends == "cross")):
        kind: Literal["cross", "cosine"] = "cosine" if number % 2 else "cross"
        part = labelled_pairs(job, models, both_orders=kind == "cross")
        loss = (o.feature_mse() if kind == "cosine" else o.soft_binary_cross_entropy()).on("scores")
        length: dict[str, Any] = {"epochs": cross_epochs} if kind == "cross" and job.settings.epochs is not None else {}
        models = _rankers(job, kind, [copy.deepcopy(each) for each in (encoders if inherit else starts)], number)
        for place, model in enumerate(models):
            name = f"{'cross' if kind == 'cross' else 'bi'} {number // 2 + 1}" + f", model {place + 1}" * (
                len(models) > 1
            )
            yield job.stage(loss, student=model, teacher=GivenScores(), part=part, name=name, **length)
        encoders = [model.encoder for model in models]


def _encoder(job: Job) -> Any:
    """The encoder in the job's student, whose body can score by a cosine and by a cross-encoder's head."""
    from limbeck.students.encoders import SentenceEncoder
    from limbeck.students.rankers import VectorRanker

    student = job.student
    if not (isinstance(student, VectorRanker) and student.cosine and isinstance(student.encoder, SentenceEncoder)):
        raise ArgumentError(
            "trans_encoder begins at a Transformers encoder with a cosine: student=ranker:cosine,FOLDER."
        )
    return student.encoder


def _rankers(job: Job, kind: Literal["cross", "cosine"], encoders: list[Any], number: int) -> list[Any]:
    """A ranker around each encoder, with a head that is drawn anew, or with a plain cosine."""
    from limbeck.students.rankers import VectorRanker, ranker
    from limbeck.training.job import derive

    found = [ranker(kind, each, seed=derive(job.settings.seed, "head", number) % 2**31) for each in encoders]
    for model in found:
        if isinstance(model, VectorRanker):
            model.log_scale.requires_grad_(False)  # labels are cosines
    return found


@recipe(paper="Towards Quantifiable Dialogue Coherence Evaluation", year=2021, field="embeddings", needs=("pairs",),
        tasks=("ranking",))  # fmt: skip
def quanti_dce(job: Job, ratings: Any = None, levels: int = 3, rating_epochs: float = 20.0, rating_rate: float = 0.25,
               keep: float = 5.0, low: float = 1.0, high: float = 5.0) -> Generator[Stage, Result, None]:  # fmt: skip
    """Learn to tell levels of candidates apart, then the scale of a few ratings, kept by a frozen copy from forgetting.

    limbeck distill quanti_dce student=ranker:cross,FOLDER data=levels.jsonl ratings=rated.jsonl

    First stage: `multi_level_ranking` of the sigmoids of a row's candidates, which come in `levels` of equal size, the best
    first. Second: keep x (the mean squared error of scores and, summed, of the states of every layer against the frozen copy) +
    that of low + (high - low) x score and the rating, for `rating_epochs` at `rating_rate` of the learning rate (Ye et al.,
    2021: 5 epochs of 3 at 2e-5, then 20 of 10 at 5e-6; they match attention maps too, which are not matched here). `ratings`:
    rows of two texts and a rating; without them the first stage is all. A ranker "mlp" has its network's states matched.
    """
    import torch

    from limbeck.data.rankings import RankingPart, read_ratings
    from limbeck.signals.stages import stages
    from limbeck.students.rankers import CrossRanker, MlpRanker, PairClassifier
    from limbeck.teachers.scores import GivenScores

    student, part = job.student, job.data.train
    if not isinstance(student, CrossRanker | MlpRanker) or isinstance(student, PairClassifier):
        raise ArgumentError("quanti_dce trains a scorer of pairs: student=ranker:cross,FOLDER or ranker:mlp,FOLDER.")
    if isinstance(part, RankingPart) and (levels < 2 or part.candidates % levels):
        raise ArgumentError(
            f"{part.candidates} candidates a row do not fall into levels={levels}: give a multiple, 2 or more."
        )
    rated = None if ratings is None else read_ratings(ratings, low, high)
    yield job.stage(o.multi_level_ranking(levels=levels).on("scores").through(torch.sigmoid), name="levels")
    if rated is None:
        return
    before = copy.deepcopy(student)
    inside = [f"head.{place}" for place in (1, 3, 5)]
    if isinstance(student, CrossRanker):
        inside = [f"encoder.body.{name}" for name in stages(student.encoder.body)]  # type: ignore[arg-type]
    same = o.feature_mse().on("scores").through(torch.sigmoid) + sum(o.feature_mse().on(tap) for tap in inside)
    yield job.stage(
        keep * same + o.rating_mse(low=low, high=high).on("scores").against("ratings"), name="ratings", part=rated,
        teacher=before, roles={"ratings": GivenScores()}, epochs=rating_epochs,
        learning_rate=rating_rate * job.settings.learning_rate,
    )  # fmt: skip
