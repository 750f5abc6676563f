"""Recipes that choose of which domains the batches are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="DDK: Distilling Domain Knowledge for Efficient Large Language Models", year=2024, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def ddk(job: Job, gamma: float = 0.2, temperature: float = 1.0, every: int = 100, uniform: float = 0.3,
        smoothing: float = 0.5, rows: int = 32) -> Stage:  # fmt: skip
    """Give the student more of the domains in which its perplexity lags behind its teacher's.

    limbeck distill ddk teacher=... student=... data=texts.jsonl domain=COLUMN

    CE + gamma KL(teacher || student), on batches whose rows are drawn by domain. Every `every` steps the student's perplexity
    over the teacher's is measured on `rows` validation rows of each domain; these ratios, divided by their sum, move a
    running mean (`smoothing`), and the shares are 1 - uniform of it and `uniform` spread evenly (Liu et al., 2024; the paper
    smooths and keeps every domain alive too; its formula and constants, gamma among them, could not be checked). uniform=1
    mixes evenly.
    """
    from limbeck.functional.mixture import DomainMixture
    from limbeck.training.mixture_source import MixtureSource, domain_losses

    settings = job.settings
    source = MixtureSource(
        job.data.train, job.data.domains or [], settings.batch_size, accumulate=settings.accumulate, seed=settings.seed,
        measure=domain_losses(job, rows), mixture=DomainMixture(uniform, smoothing), every=every, workers=settings.workers,
    )  # fmt: skip
    return job.stage(o.cross_entropy() + gamma * o.forward_kl(temperature=temperature), source=source)
