"""Recipes for regression: numbers as targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Learning Efficient Object Detection Models with Knowledge Distillation", year=2017, field="classifiers",
        needs=("logits",), tasks=("regression",))  # fmt: skip
def regression_kd(job: Job, soft: float = 0.5) -> Stage:
    """Follow the teacher's values, and the labels where there are any.

    limbeck distill regression_kd teacher=... student=... data=... soft=0.5

    (1 - soft) * squared error to the label + soft * squared error to the teacher: the plain form of teacher regression
    (Chen et al., 2017, bound the second term; that bound is not part of this recipe).
    """
    follow = o.feature_mse().on("logits").named("follow")
    if soft == 1 or "labels" not in job.has():
        return job.stage(follow)
    return job.stage((1 - soft) * o.squared_error() + soft * follow)
