"""Recipes that compare outputs: Hinton's distillation and its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Distilling the Knowledge in a Neural Network", year=2015, field="classifiers",
        needs=("logits",))  # fmt: skip
def kd(job: Job, temperature: float = 4.0, soft: float = 0.9) -> Stage:
    """Match the teacher's softened probabilities, and the labels where there are any.

    limbeck distill kd teacher=... student=... data=... temperature=4

    (1 - soft) * CE + soft * T^2 KL(teacher || student) at temperature T (Hinton et al., 2015; weights of the CIFAR-100
    benchmarks). Unlabelled samples count in the second term only.
    """
    if soft == 1 or "labels" not in job.has():
        return job.stage(o.forward_kl(temperature=temperature))
    return job.stage((1 - soft) * o.cross_entropy() + soft * o.forward_kl(temperature=temperature))


@recipe(paper="Decoupled Knowledge Distillation", year=2022, field="classifiers", needs=("logits", "labels"))
def dkd(job: Job, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, warmup: float = 1 / 12) -> Stage:
    """Split KD into target and non-target classes and weigh the latter, which KD suppresses for confident teachers.

    limbeck distill dkd teacher=... student=... data=... beta=8

    CE + ramp * (alpha TCKD + beta NCKD), both times T^2 (Zhao et al., 2022). The paper ramps over 20 of 240 epochs.
    """
    return job.stage(
        o.cross_entropy()
        + o.ramp(0, 1, until=warmup) * o.decoupled_kl(alpha=alpha, beta=beta, temperature=temperature)
    )  # fmt: skip


@recipe(paper="Knowledge Distillation from A Stronger Teacher", year=2022, field="classifiers",
        needs=("logits",))  # fmt: skip
def dist(job: Job, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> Stage:
    """Match the teacher's ranking within a sample and across samples by correlation, not by value.

    limbeck distill dist teacher=... student=... data=... beta=2 gamma=2

    CE + beta (1 - Pearson of rows) + gamma (1 - Pearson of columns), times T^2 (Huang et al., 2022; CIFAR weights).
    The second term compares samples of a batch with each other: use batches of 32 or more.
    """
    relations = (
        beta * o.pearson_rows(temperature=temperature)
        + gamma * o.pearson_columns(temperature=temperature)
    )  # fmt: skip
    return job.stage(o.cross_entropy() + relations if "labels" in job.has() else relations)


@recipe(paper="From Knowledge Distillation to Self-Knowledge Distillation", year=2023, field="classifiers",
        needs=("logits", "labels"))  # fmt: skip
def nkd(job: Job, gamma: float = 1.5, temperature: float = 1.0) -> Stage:
    """Teach the target class by the teacher's confidence and the other classes by their normalised shares.

    limbeck distill nkd teacher=... student=... data=... gamma=1.5

    CE + target term + gamma T^2 non-target cross-entropy (Yang et al., 2023).
    """
    return job.stage(
        o.cross_entropy() + o.target_nontarget_cross_entropy(gamma=gamma, temperature=temperature)
    )  # fmt: skip


@recipe(paper="Logit Standardization in Knowledge Distillation", year=2024, field="classifiers",
        needs=("logits", "labels"))  # fmt: skip
def logit_standardization(job: Job, temperature: float = 2.0, hard: float = 0.1, soft: float = 9.0) -> Stage:
    """Z-score the logits of both models before KD, so that only their shape is compared.

    limbeck distill logit_standardization teacher=... student=... data=...

    0.1 CE + 9 T^2 KL of standardised logits (Sun et al., 2024).
    """
    from limbeck.functional import standardize

    return job.stage(
        hard * o.cross_entropy() + soft * o.forward_kl(temperature=temperature).through(standardize)
    )  # fmt: skip


@recipe(paper="Multi-level Logit Distillation", year=2023, field="classifiers", needs=("logits", "labels"))
def multi_level_logit(job: Job, temperature: float = 4.0, hard: float = 0.1, soft: float = 0.9, share: float = 0.5,
                      strong: str = "") -> Stage:  # fmt: skip
    """Match predictions at five temperatures on three levels: each sample, samples to samples, classes to classes.

    limbeck distill multi_level_logit teacher=... student=... data=... strong=shift:2

    0.1 CE + 0.9 (instance + batch + class alignment), each summed over the temperatures (base, 3, 5, 2, 6), on every view (Jin
    et al., 2023). `share`: of the view that the data give, the least confident half counts: samples in the first two, classes
    in the third, by a true mask. The released code multiplies means by the mask instead, which is `share=1` at about half the
    weight. `strong`: an augmentation that makes a second view, all of which counts; without it there is one view.
    """

    def on(view: str, share: float) -> o.Sum:
        options = {"temperatures": [temperature, 3.0, 5.0, 2.0, 6.0], "share": share}
        terms = [f(**options) for f in (o.instance_alignment, o.batch_alignment, o.class_alignment)]
        terms = [term.on(f"self{view}:logits", f"teacher{view}:logits") for term in [o.cross_entropy(), *terms]]
        return hard * terms[0].named(f"cross_entropy{view}") + soft * sum(t.named(t.name + view) for t in terms[1:])

    if not strong:
        return job.stage(on("", share))
    from limbeck.data.augment import make_augmentation
    from limbeck.training.second_view import second_view

    return job.stage(on("", share) + on("/strong", 1.0), **second_view(job, "strong", make_augmentation(strong)))


@recipe(paper="PLD: A Choice-Theoretic List-Wise Knowledge Distillation", year=2025, field="classifiers",
        needs=("logits", "labels"))  # fmt: skip
def pld(job: Job, temperature: float = 1.0) -> Stage:
    """One list-wise loss for label and teacher: the likelihood of the ranking "label first, then the teacher's order".

    limbeck distill pld teacher=... student=... data=...

    Plackett-Luce likelihood, each choice weighed by the teacher's confidence (Bayesian reading of logits as worths,
    2025; after the paper's text, no official code was found). It replaces CE + KD and has no weight to tune.
    """
    return job.stage(o.plackett_luce(temperature=temperature))


@recipe(paper="Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones",
        year=2021, field="classifiers", needs=("logits",))  # fmt: skip
def ssld(job: Job) -> Stage:
    """Learn from the teacher alone, on labelled and unlabelled inputs alike, and never look at a label.

    limbeck distill ssld teacher=... student=... data=...

    Half the symmetric KL at temperature 1 (Cui et al., 2021; the released code calls it JS divergence). The paper's
    pool selection and its second pass at a larger resolution are not part of this recipe: give the pool as data.
    """
    return job.stage(o.symmetric_kl())


@recipe(paper="Distilling the Knowledge in a Neural Network (its baseline)", year=2015, field="classifiers",
        needs=("labels",), tasks=("classification", "regression", "causal_lm", "ranking"))  # fmt: skip
def alone(job: Job) -> Stage:
    """The fair baseline: the same student, the same number of updates, the labels, no teacher.

    limbeck distill alone student=... data=...

    Every claim of distillation is measured against this (as in Hinton et al., 2015, table 1).
    """
    return job.stage(job.task.supervised(), part=job.labelled())
