"""Recipes that learn from pairs of answers: a teacher aligned with preferences, and traces that went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.recipes.language.on_policy import written
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.teachers.base import Teacher
    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage

    Stages = Generator[Stage, Result, Any]

Start = Literal["sft", "dckd", "none"]


def _given(**settings: Any) -> dict[str, Any]:
    """Settings of a stage that are not left to the job's own."""
    return {name: value for name, value in settings.items() if value is not None}


def _last(job: Job, **settings: Any) -> dict[str, Any]:
    """The same for a stage that keeps its last weights unless the user says otherwise: preferences cost likelihood."""
    return _given(best=job.settings.best or "last", **settings)


def aligned_teacher(job: Job, given: Any, beta: float, steps: int | None, rate: float | None, *,
                    reverse: bool = False) -> Generator[Stage, Result, Teacher]:  # fmt: skip
    """The model that is given; or else a stage of DPO on a copy of the teacher, against the teacher itself."""
    role = "reverse" if reverse else "aligned"
    known = job.model(given, role)
    if known is not None:
        return known
    result = yield job.stage(
        o.dpo(beta=beta, reverse=reverse), name=f"{role} teacher", student=job.copy_of_teacher(),
        roles={"reference": job.teacher}, **_last(job, steps=steps, learning_rate=rate),
    )  # fmt: skip
    return job.model(result.student, role)  # type: ignore[return-value]


def _dual(job: Job, teacher: Teacher, nll: float = 1.0, chosen: float = 1.0, rejected: float = 1.0,
          top_k: int | None = 50, **settings: Any) -> Stage:  # fmt: skip
    """The student's stage of DCKD."""
    follow = {side: (o.forward_kl() if top_k is None else o.topk_forward_kl(k=top_k)).among(side)
              for side in ("chosen", "rejected")}  # fmt: skip
    objective = nll * o.cross_entropy().among("chosen") + chosen * follow["chosen"] + rejected * follow["rejected"]
    return job.stage(objective, name="distil", teacher=teacher, **settings)


@recipe(paper="Advantage-Guided Distillation for Preference Alignment in Small Language Models: DCKD", year=2025,
        field="language", needs=("logits", "preferences"), tasks=("causal_lm",))  # fmt: skip
def dckd(job: Job, nll: float = 1.0, chosen: float = 1.0, rejected: float = 1.0, top_k: int | None = 50,
         beta: float = 0.1, aligned: Any = None, align_steps: int | None = None,
         align_rate: float | None = None) -> Stages:  # fmt: skip
    """Match a preference-aligned teacher on chosen and rejected answers alike, and learn the chosen ones.

    limbeck distill dckd teacher=... student=... data=pairs.jsonl aligned=runs/dpo

    Two stages: DPO (beta) makes the aligned teacher from the given one, unless `aligned` names it; then the student learns
    nll CE(chosen) + chosen KL(chosen) + rejected KL(rejected), each KL(teacher || student) the mean over these answers' tokens
    (dual-constrained distillation, Gao et al., 2025). `top_k` teacher probabilities and the rest as one class, as the
    released code stores them (it clamps probabilities to [1e-8, 1 - 1e-8], which is not done here); none takes all. The
    paper's weights were not seen; `align_steps` and `align_rate` are the first stage's length and learning rate.
    """
    teacher = yield from aligned_teacher(job, aligned, beta, align_steps, align_rate)
    yield _dual(job, teacher, nll, chosen, rejected, top_k)


@recipe(paper="Advantage-Guided Distillation for Preference Alignment in Small Language Models", year=2025,
        field="language", needs=("logits", "preferences"), tasks=("causal_lm",))  # fmt: skip
def adpa(job: Job, gamma: float = 1.0, nll: float = 1.0, start: Start = "sft", clip: float | None = None,
         beta: float = 0.1, max_new_tokens: int = 128, temperature: float = 1.0, aligned: Any = None,
         reference: Any = None, align_steps: int | None = None, align_rate: float | None = None,
         start_steps: int | None = None) -> Stages:  # fmt: skip
    """Reward every token of the student's own answers by how much likelier alignment has made it to the teacher.

    limbeck distill adpa teacher=... student=... data=pairs.jsonl start=dckd aligned=runs/dpo

    Stages: DPO (beta) of the teacher, unless `aligned` names the result; the student's `start`, SFT on the chosen answers
    (ADPA), dckd (ADPA+) or none; then one answer of it to every prompt, and nll CE(chosen) - gamma sum_v p_S(v) A(v), the mean
    over the tokens of its answers, with A = log p_aligned - log p_reference over the whole vocabulary (Gao et al., 2025).
    `reference` is the teacher before DPO, as in the paper; the released example takes the student's. That code keeps 50
    tokens and clamps A to [0, 1], so that every negative advantage is lost; `clip` limits A to +-clip. The second term is
    unbounded towards one token: it needs the first, or few steps. The paper's weights were not seen.
    """
    from limbeck.data.generate import Sampling
    from limbeck.data.generate_pairs import answered_pairs
    from limbeck.teachers.composed import Advantages

    sampling = Sampling(max_new_tokens, temperature)
    before = job.teacher if reference is None else job.model(reference, "reference")
    teacher = yield from aligned_teacher(job, aligned, beta, align_steps, align_rate)
    if start == "sft":
        yield job.stage(o.cross_entropy(), name="sft", **_given(steps=start_steps))
    elif start == "dckd":
        yield _dual(job, teacher, nll, **_given(steps=start_steps))
    pairs = answered_pairs(job.pairs(), job.student, job.task, sampling, seed=job.settings.seed)
    follow = gamma * o.expected_advantage(clip=clip).against("advantages").among("rejected")
    roles = {"aligned": teacher, "reference": before, "advantages": Advantages("aligned", "reference")}
    yield job.stage(
        nll * o.cross_entropy().among("chosen") + follow, name="advantage", part=pairs, roles=roles, **_last(job)
    )


@recipe(paper="AlignDistil: Token-Level Language Model Alignment as Adaptive Policy Distillation", year=2025,
        field="language", needs=("logits", "preferences"), tasks=("causal_lm",))  # fmt: skip
def aligndistil(job: Job, beta: float = 0.1, beta2: float | None = None, floor: float = 1e-3, contrast: bool = True,
                adaptive: bool = True, per_length: bool = True, on_policy: bool = False, max_new_tokens: int = 128,
                aligned: Any = None, reverse: Any = None, align_steps: int | None = None,
                align_rate: float | None = None) -> Stages:  # fmt: skip
    """Distil from a teacher whose logits move beyond DPO's, token by token, away from a model that learned the reverse.

    limbeck distill aligndistil teacher=... student=... data=pairs.jsonl beta2=10

    Three stages: DPO (beta) of the teacher, the same with chosen and rejected exchanged, each skipped where `aligned` or
    `reverse` names the model; then (beta / w) KL(student || softmax(z + w (z - z'))) on both answers, w = beta2 sum_v |p - p'|
    + floor of each token, the mean over an answer's tokens, then over answers (Zhang et al., 2025). `on_policy`: on answers
    that the student writes anew in every step; beta2 is 15 then, else 10, unless given. `contrast=false`: z' is the teacher
    before DPO, and z' + w (z - z'); `adaptive=false`: w = beta / beta2 everywhere; neither: the paper's theorem 1. The paper's
    student is the teacher before DPO. A smaller one first differs where both teachers agree, and there beta / w is up to 100:
    give it a `floor` of 0.3 or so. The released code leaves out the first token of every answer.
    """
    from limbeck.teachers.composed import Contrast

    given = [job.model(aligned, "aligned"), job.model(reverse, "reverse")]  # before anything is trained
    first = yield from aligned_teacher(job, given[0], beta, align_steps, align_rate)
    second: Any = job.teacher
    if contrast:
        second = yield from aligned_teacher(job, given[1], beta, align_steps, align_rate, reverse=True)
    scale = beta2 or (15.0 if on_policy else 10.0)
    target = Contrast(
        "aligned", "other", beta2=scale, floor=floor, strength=None if adaptive else beta / scale, contrast=contrast
    )
    follow = o.per_sequence(o.reverse_kl().against("target"), average=per_length, over="target:strength")
    roles = {"aligned": first, "other": second, "target": target}
    source = written(job, max_new_tokens, 1.0) if on_policy else None
    yield job.stage(beta * follow, name="distil", roles=roles, part=job.pairs(), source=source, **_last(job))


@recipe(paper="Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning", year=2025,
        field="language", needs=("preferences",), tasks=("causal_lm",))  # fmt: skip
def redi(job: Job, alpha: float = 0.8, gamma: float | None = None, sft_steps: int | None = None,
         pair_steps: int | None = None, pair_rate: float | None = None) -> Stages:  # fmt: skip
    """Imitate right traces, then push wrong ones down as well, less hard than the right ones are pulled up.

    limbeck distill redi student=... data=traces.jsonl alpha=0.8 pair_rate=1e-6

    The traces of a teacher are the data: of every problem a right one (chosen) and a wrong one (rejected). Stage 1 is SFT on
    the right ones (`sft_steps`, 0 where the student has had it), stage 2 -log p(right)/|right| + alpha log p(wrong)/|wrong|,
    the mean over pairs, without a reference (Xu et al., 2025: 5 epochs, then 1 at a learning rate of 1e-6; the code's `gamma`
    weighs the second term by p(wrong)^(gamma/|wrong|)). It is unbounded below: where the likelihood of right traces falls
    (the nll on validation), lower `pair_rate` or stop by patience=2 best=nll. alpha 1 is symmetric and unstable, 0 is SFT.
    """
    if sft_steps != 0:
        yield job.stage(o.cross_entropy(), name="sft", **_given(steps=sft_steps))
    objective = o.redi(alpha=alpha, gamma=gamma)
    yield job.stage(objective, name="pairs", **_last(job, steps=pair_steps, learning_rate=pair_rate))
