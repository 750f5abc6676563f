"""Recipes for models that tell whether a text is of the kind that they were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Multi-Level Knowledge Distillation for Out-of-Distribution Detection in Text", year=2023, field="classifiers",
        needs=("logits", "features"), tasks=("causal_lm",))  # fmt: skip
def mlkd_ood(job: Job, nearest: int = 2, inside: float = 1.0, first: float = 0.25, last: float = 0.75,
             student_layers: str = "auto", teacher_layers: str = "auto") -> Stage:  # fmt: skip
    """Teach an empty language model the kind of text that a pretrained one was tuned on: other texts are then a surprise to it.

    limbeck distill mlkd_ood teacher=FINE_TUNED student=decoder:6,128 data=texts.jsonl

    KL(teacher || student) of the next token at temperature 1 + `inside` * sum over the student's layers from `first` to `last`
    of the depth (3 to 9 of 12) of the squared distances of a token to the `nearest` 2 of the teacher's layers, all of them
    behind one linear map that learns beside; means over the tokens that are predicted, no label (Wu et al., 2023). Their
    layers' weights, which start at 1, are fixed at 1 here. A layer is what the block gives, the last one before its norm. The
    paper's student has the teacher's size, at 5e-5 constant, batches of 16. A text's score is its perplexity: `limbeck evaluate
    MODEL data=known.jsonl novel=other.jsonl` (AUROC, AUPR, FAR95).
    """
    ours, theirs = job.layers("student", student_layers), job.layers("teacher", teacher_layers)
    if not 0 <= first <= last <= 1 or not inside > 0:
        raise ArgumentError(
            f"first={first}, last={last}, inside={inside}: expected parts of the depth in order, from 0 to 1, and a "
            "weight above 0."
        )
    some = [tap for number, tap in enumerate(ours, 1) if first * len(ours) <= number <= last * len(ours)]
    if not some:
        raise ArgumentError(
            f"No layer of the student's {len(ours)} lies between {first} and {last} of its depth: give a wider range, such as "
            "first=0, last=1."
        )
    return job.stage(o.forward_kl() + inside * o.nearest_layers(student=some, teacher=theirs, nearest=nearest))
