"""A recipe for language models that tell known texts from others: by how surprised they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Multi-Level Knowledge Distillation for Out-of-Distribution Detection in Text", year=2023, field="classifiers",
        needs=("features", "logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def mlkd_ood(job: Job, nearest: int = 2, weight: float = 1.0) -> Stage:
    """Train a fresh language model on known texts alone, by a teacher that knows more: what surprises it is new.

    limbeck distill mlkd_ood teacher=... student=... data=known_texts.jsonl

    KL(teacher || student) of the next tokens at temperature 1 + weight * the sum, over the student's layers from a quarter to
    three quarters of its depth, of the MSE to the 2 nearest of ALL the teacher's layers, token by token, behind one linear map
    (Wu et al., 2023; the teacher is pretrained and fine-tuned on the known texts, the student of its size and fresh; no loss of
    the text itself). The mean is over predicted tokens. `limbeck evaluate MODEL data=known.jsonl novel=other.jsonl` tells how
    well the perplexity of a text separates them.
    """
    if nearest < 1 or weight < 0:
        raise ArgumentError(f"nearest={nearest}, weight={weight}: expected 1 or more, and 0 or more.")
    ours = job.layers("student")
    middle = ours[max(1, round(len(ours) / 4)) - 1 : round(3 * len(ours) / 4)] or ours[:1]
    inside = o.nearest_layers(middle, job.layers("teacher"), nearest=nearest)
    return job.stage(o.forward_kl() + weight * inside)
