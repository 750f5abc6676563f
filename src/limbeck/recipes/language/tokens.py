"""Recipes that compare next-token distributions on given text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.objectives.algebra import Objective
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


def _mixed(job: Job, kd: float, divergence: Objective) -> Stage:
    """(1 - kd) CE + kd times a divergence, both means over all predicted tokens of the step."""
    return job.stage((1 - kd) * o.cross_entropy() + kd * divergence)


@recipe(paper="Distilling the Knowledge in a Neural Network, for every next token", year=2015, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def lm_kd(job: Job, kd: float = 0.5, temperature: float = 1.0) -> Stage:
    """Word-level distillation: match the teacher's next-token distributions on given text, and learn the text too.

    limbeck distill lm_kd teacher=... student=... data=texts.jsonl

    (1 - kd) CE + kd KL(teacher || student), the mean over all predicted tokens of the step (Hinton et al., 2015, for every
    token; kd 0.5 as in MiniLLM's baseline, 1.0 in TAID's). At a temperature the KL has its T^2. Released code of DistiLLM
    and TAID calls the cross-entropy with the teacher a KL: the gradient is the same, the value is not.
    """
    return _mixed(job, kd, o.forward_kl(temperature=temperature))


@recipe(paper="MiniLLM: Knowledge Distillation of Large Language Models (its token-level reverse KL)", year=2024,
        field="language", needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def lm_reverse_kl(job: Job, kd: float = 0.5, temperature: float = 1.0) -> Stage:
    """Mode-seeking distillation on given text: put no mass where the teacher has none, rather than cover all it has.

    limbeck distill lm_reverse_kl teacher=... student=... data=texts.jsonl

    (1 - kd) CE + kd KL(student || teacher) over given tokens (Gu et al., 2024, without their sampling: `minillm` is that).
    """
    return _mixed(job, kd, o.reverse_kl(temperature=temperature))


@recipe(paper="On-Policy Distillation of Language Models (its divergence)", year=2024, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def lm_jsd(job: Job, kd: float = 0.5, beta: float = 0.5, temperature: float = 1.0) -> Stage:
    """The generalised Jensen-Shannon divergence on given text: between covering the teacher and seeking its modes.

    limbeck distill lm_jsd teacher=... student=... data=texts.jsonl beta=0.1

    beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student; the forward KL for beta 0, the
    reverse for beta 1 (Agarwal et al., 2024, without their sampling: `gkd` is that). TRL's beta is the same, DistiLLM's
    js_distance has the student's weight.
    """
    return _mixed(job, kd, o.jensen_shannon(beta=beta, temperature=temperature))


@recipe(paper="DistiLLM: Towards Streamlined Distillation for Large Language Models (its divergence)", year=2024,
        field="language", needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def lm_skew_kl(job: Job, kd: float = 0.5, skew: float = 0.1, direction: Literal["forward", "reverse"] = "forward",
               temperature: float = 1.0) -> Stage:  # fmt: skip
    """A KL against a mixture with a little of the other side in it: bounded, with gentler gradients than the KL itself.

    limbeck distill lm_skew_kl teacher=... student=... data=texts.jsonl direction=reverse

    KL(teacher || skew teacher + (1 - skew) student), or the same with the sides exchanged (Ko et al., 2024, skew 0.1, without
    their use of the student's own text: `distillm` is that). Their code leaves out the entropy: the gradient is the same.
    """
    skewed = {"forward": o.skew_forward_kl, "reverse": o.skew_reverse_kl}[direction]
    return _mixed(job, kd, skewed(skew=skew, temperature=temperature))


@recipe(paper="f-Divergence Minimization for Sequence-Level Knowledge Distillation (its total variation)", year=2023,
        field="language", needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def tvd(job: Job, kd: float = 0.5, temperature: float = 1.0) -> Stage:
    """Total variation of next-token distributions: symmetric and bounded, so that a few outliers cannot rule the loss.

    limbeck distill tvd teacher=... student=... data=texts.jsonl

    (1 - kd) CE + kd times half the sum of |p - q| (Wen et al., 2023, on given text). Its gradient vanishes where the two have
    no mass in common: the cross-entropy beside it, or a student that has been warmed up, sees to that.
    """
    return _mixed(job, kd, o.total_variation(temperature=temperature))


@recipe(paper="Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models", year=2024,
        field="language", needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def akl(job: Job, kd: float = 0.5, head: float = 0.5, temperature: float = 1.0) -> Stage:
    """Adaptive KL: for every token the forward KL as far as the head of the distribution differs, the reverse for the tail.

    limbeck distill akl teacher=... student=... data=texts.jsonl

    The weight is the share of |p - q| that lies in the fewest classes with a teacher mass of `head` (Wu et al., 2024). A
    released implementation takes the head of sorted and the gap of unsorted classes and lets the gradient into the weight;
    this follows the paper.
    """
    return _mixed(job, kd, o.adaptive_kl(head=head, temperature=temperature))


@recipe(paper="DistillKit: distillation from a compressed teacher", year=2024, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def topk_teacher(job: Job, kd: float = 0.5, k: int = 64, missing: Literal["rest", "zero", "conditional"] = "rest",
                 temperature: float = 1.0) -> Stage:  # fmt: skip
    """Match the teacher's k likeliest next tokens and the mass of all others: what a store of a large teacher can hold.

    limbeck distill topk_teacher teacher=stores/teacher student=... data=texts.jsonl k=64

    (1 - kd) CE + kd KL over the k classes and one more for the rest (Arcee's DistillKit, 2024: "symmetric_uniform"). With
    "zero" the rest has no mass, which sharpens the student; "conditional" looks at the k classes alone.
    """
    return _mixed(job, kd, o.topk_forward_kl(k=k, missing=missing, temperature=temperature))


@recipe(paper="TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
        year=2025, field="language", tasks=("causal_lm",))  # fmt: skip
def taid(job: Job, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99, adaptive: bool = True,
         temperature: float = 1.0) -> Stage:  # fmt: skip
    """The target moves from the student's own distribution to the teacher's, as fast as the student learns.

    limbeck distill taid teacher=... student=... data=texts.jsonl start=0.2

    Cross-entropy with softmax((1 - t) z_student + t z_teacher), logits mixed, the student's detached; t runs ahead of a line
    from `start` (0.4; 0.2 for a large gap) to `end` by alpha sigmoid(momentum) (1 - t) a step, the momentum (beta) being that
    of the loss's relative fall (Shing et al., 2025: distillation alone, AdamW at 1e-4). The pace is kept in checkpoints.
    """
    return job.stage(
        o.paced_target(start=start, end=end, alpha=alpha, beta=beta, adaptive=adaptive, temperature=temperature)
    )


@recipe(paper="FIRST: Teach A Reliable Large Language Model Through Efficient Trustworthy Distillation", year=2024,
        field="language", needs=("logits", "labels"), tasks=("causal_lm", "classification"))  # fmt: skip
def first(job: Job, k: int = 5, calibrate: bool = True, temperature: float = 1.0,
          missing: Literal["conditional", "rest"] = "conditional") -> Stage:  # fmt: skip
    """Calibrate the teacher first, then match only its few likeliest classes, so that the student is sure when it is right.

    limbeck distill first teacher=... student=... data=texts.jsonl

    The temperature with the least calibration error on the validation part (`calibrate=false` takes `temperature`), then
    KL(teacher || student) over the teacher's k classes, both renormalised on them after 1e-6 was added, the mean over tokens
    (Shum et al., 2024, "linear"; the code averages within sequences first). This says nothing of the other classes, so that a
    student should know the task before; `missing=rest` makes them one more class, for a fresh student. The code's "softmax" of
    probabilities and its branch for other tokens, which takes probabilities for logarithms, are not followed.
    """
    from limbeck.teachers.tempered import Tempered, calibrating_temperature

    assert job.teacher is not None
    if calibrate:
        part = job.data.parts.get("valid") or job.labelled()
        temperature, _ = calibrating_temperature(job.teacher, part, job.task)
    objective = o.topk_forward_kl(k=k, missing=missing, floor=1e-6 if missing == "conditional" else 0.0)
    return job.stage(objective, teacher=Tempered(job.teacher, temperature))


@recipe(paper="Multi-Granularity Semantic Revision for Large Language Model Distillation", year=2024, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def mgsr(job: Job, dac: float = 1.0, span: float = 1.0, sft: float = 1.0, span_size: int = 3,
         top_k: int | None = 64) -> Stage:  # fmt: skip
    """Match the dense part of each distribution, between bounds that are learned, and how neighbours in a span go together.

    limbeck distill mgsr teacher=... student=... data=texts.jsonl

    sft CE + dac KL on the kept classes (`learned_subset_kl`) + span times the distance of products of neighbouring
    distributions (`span_correlation`) (Liu et al., 2024). No code is published: both are our reading, spans are runs of
    `span_size` tokens where the data bring none of a chunker.
    """
    return job.stage(
        sft * o.cross_entropy() + dac * o.learned_subset_kl() + span * o.span_correlation(size=span_size, top_k=top_k)
    )
