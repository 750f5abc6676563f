"""Recipes that compare next-token distributions on given text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Distilling the Knowledge in a Neural Network, for every next token", year=2015, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def lm_kd(job: Job, kd: float = 0.5, temperature: float = 1.0) -> Stage:
    """Word-level distillation: match the teacher's next-token distributions on given text, and learn the text too.

    limbeck distill lm_kd teacher=... student=... data=texts.jsonl

    (1 - kd) CE + kd KL(teacher || student), the mean over all predicted tokens of the step (Hinton et al., 2015, for every
    token; kd 0.5 as in MiniLLM's baseline, 1.0 in TAID's). At a temperature the KL has its T^2. Released code of DistiLLM
    and TAID calls the cross-entropy with the teacher a KL: the gradient is the same, the value is not.
    """
    return job.stage((1 - kd) * o.cross_entropy() + kd * o.forward_kl(temperature=temperature))
