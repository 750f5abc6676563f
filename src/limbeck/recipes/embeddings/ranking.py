"""Recipes for rankers: scores of candidates, matched as differences, as numbers, as a distribution, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation", year=2020,
        field="embeddings", needs=("logits",), tasks=("ranking",))  # fmt: skip
def margin_mse(job: Job, store: str | None = None) -> Stage:
    """Match how far the answer's score lies above another document's: scales of architectures differ, differences carry over.

    limbeck distill margin_mse teacher=scores student=ranker:dot,FOLDER data=triples.jsonl

    Mean over negatives of ((s+ - s-) - (t+ - t-))^2 (Hofstaetter et al., 2020); no temperature, no label beside it. A teacher
    that is a model reads every row once; its scores are kept in the run's folder or in `store`. Several teachers,
    teacher=[A,B], are brought to one scale before their mean is taken.
    """
    return job.stage(o.margin_mse().on("scores"), teacher=job.stored("scores", at=store))


@recipe(paper="Pointwise matching of scores (baseline of Margin-MSE)", year=2020, field="embeddings", needs=("logits",),
        tasks=("ranking",))  # fmt: skip
def score_mse(job: Job, store: str | None = None) -> Stage:
    """Match the teacher's scores as they are, number by number.

    limbeck distill score_mse teacher=scores student=ranker:dot,FOLDER data=triples.jsonl

    Mean over candidates of (s - t)^2: what Margin-MSE is compared with (Hofstaetter et al., 2020). A constant in the teacher's
    scores has to be learnt. `store` as in `margin_mse`.
    """
    return job.stage(o.feature_mse().on("scores"), teacher=job.stored("scores", at=store))


@recipe(paper="RocketQAv2: A Joint Training Method for Dense Passage Retrieval and Passage Re-ranking", year=2021,
        field="embeddings", needs=("logits",), tasks=("ranking",))  # fmt: skip
def listwise_kl(job: Job, temperature: float = 1.0, store: str | None = None) -> Stage:
    """Match the teacher's distribution over the candidates of a query.

    limbeck distill listwise_kl teacher=scores student=ranker:dot,FOLDER data=triples.jsonl temperature=1

    T^2 KL of the softmax over candidates (Ren et al., 2021). Scores far apart make it nearly one-hot, close ones nearly even:
    raise or lower the temperature then. `store` as in `margin_mse`.
    """
    return job.stage(o.forward_kl(temperature=temperature).on("scores"), teacher=job.stored("scores", at=store))


@recipe(paper="Dense Passage Retrieval for Open-Domain Question Answering (no teacher)", year=2020, field="embeddings",
        needs=("labels",), tasks=("ranking",))  # fmt: skip
def contrastive(job: Job, temperature: float = 1.0) -> Stage:
    """Set the answer of a query above its other candidates and above all of the other queries in the batch, without a teacher.

    limbeck distill contrastive student=ranker:dot,FOLDER data=triples.jsonl temperature=0.05

    Cross-entropy of the answer among all candidates of the batch (Karpukhin et al., 2020): 0.05 suits cosines, 1 dot products.
    It compares rows with each other and refuses accumulate. A cross ranker has no such scores.
    """
    return job.stage(o.in_batch_contrastive().on("in_batch").through(lambda scores: scores / temperature))
