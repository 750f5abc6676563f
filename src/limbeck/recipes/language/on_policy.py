"""Recipes in which models write what is learnt from: sequence-level, on-policy and policy-gradient distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.on_policy import OnPolicy
    from limbeck.training.rollouts import Rollout
    from limbeck.training.stage import Stage


def written(job: Job, max_new_tokens: int, temperature: float, **options: Any) -> OnPolicy:
    """The source of a stage whose batches models write, from the prompts of the training part."""
    from limbeck.data.generate import Sampling
    from limbeck.data.language_parts import PairPart
    from limbeck.signals.step import derive
    from limbeck.training.on_policy import OnPolicy

    share = options.get("student")
    if isinstance(share, int | float) and not 0 <= share <= 1:
        raise ArgumentError(f"lmbda={share:g}: expected a share from 0 to 1, of the batches that the student writes.")
    assert job.teacher is not None
    if job.teacher.stored:
        raise ArgumentError(
            "The teacher is a store, which knows nothing of texts yet to be written. Give the model itself."
        )
    part, settings = job.data.train, job.settings
    return OnPolicy(
        part.chosen() if isinstance(part, PairPart) else part, job.task, settings.batch_size,
        sampling=Sampling(max_new_tokens, temperature), teacher=job.teacher, accumulate=settings.accumulate,
        seed=derive(settings.seed, "written", job.stages_made), **options,
    )  # fmt: skip


@recipe(paper="Sequence-Level Knowledge Distillation", year=2016, field="language", needs=("answers", "prompts"),
        tasks=("causal_lm",))  # fmt: skip
def seq_kd(job: Job, max_new_tokens: int = 128, temperature: float = 1.0, store: str | None = None) -> Stage:
    """Learn the teacher's own answers: one sample to each prompt stands for its whole distribution over texts.

    limbeck distill seq_kd teacher=... student=... data=answers.jsonl store=samples.jsonl

    Cross-entropy of answers that the teacher writes when they are first needed and that are kept from then on (Kim and Rush,
    2016, who take the best of a beam where this samples). Answers that were cut at `max_new_tokens` and empty ones are left
    out; a batch with none left is the data's. The teacher may be a black box, and have another tokenizer: give
    teacher=TextSampler(function, tokenizer). `store` is a file of prompt, response and how it was sampled, which later
    runs take as data=.
    """
    from pathlib import Path

    source = written(job, max_new_tokens, temperature, student=0.0, teacher_share=1.0,
                      store=None if store is None else Path(store))  # fmt: skip
    return job.stage(o.cross_entropy(), source=source)


@recipe(paper="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", year=2024,
        field="language", needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def gkd(job: Job, lmbda: float = 0.5, beta: float = 0.5, seq_kd: bool = False, max_new_tokens: int = 128,
        sampling_temperature: float = 0.9, temperature: float = 1.0) -> Stage:  # fmt: skip
    """Generalised distillation: be corrected by the teacher on one's own answers, where one's own mistakes are made.

    limbeck distill gkd teacher=... student=... data=answers.jsonl lmbda=0.5 beta=0.5

    With the probability `lmbda` a batch has the student's own answers, else those of the data, or (`seq_kd`) of the teacher;
    the loss is the generalised JSD, beta KL(teacher || m) + (1 - beta) KL(student || m), the mean over the answers' tokens,
    and no gradient goes through the sampling (Agarwal et al., 2024). `temperature` is that of the loss, which TRL never
    passes on (1 there); older TRL also cut short prompts' answers by the longest prompt, where this goes by labels alone.
    """
    source = written(job, max_new_tokens, sampling_temperature, student=lmbda,
                      teacher_share=1 - lmbda if seq_kd else 0.0)  # fmt: skip
    return job.stage(o.jensen_shannon(beta=beta, temperature=temperature), source=source)


@recipe(paper="DistiLLM: Towards Streamlined Distillation for Large Language Models", year=2024, field="language",
        needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def distillm(job: Job, skew: float = 0.1, direction: Literal["forward", "reverse"] = "forward",
             trend: Literal["decreasing", "constant", "increasing"] = "decreasing", tolerance: float = 0.1,
             raise_by: float = 0.1, threshold: float = 0.0, capacity: int = 1000, max_new_tokens: int = 128,
             sampling_temperature: float = 1.0) -> Stage:  # fmt: skip
    """A skewed KL, and the student's own answers only as often as its validation loss asks for, old ones used again.

    limbeck distill distillm teacher=... student=... data=answers.jsonl valid=0.1 direction=reverse

    The threshold (0 at first) rises by `raise_by` whenever the validation loss is `tolerance` above the last remembered one;
    below it a batch is the student's, new ones with a probability that falls as training goes on, the others from a buffer of
    `capacity` answers (Ko et al., 2024). The loss is `lm_skew_kl`'s, distillation alone. How many answers were written stands
    in the run's record.
    """
    from limbeck.functional.pace import GenerationThreshold

    if job.evaluation is None and not threshold:
        raise ArgumentError(
            "distillm learns from the validation loss when to write, and there is no validation part: give valid=0.1, or "
            "a threshold= above 0 to start (and stay) with."
        )
    pace = GenerationThreshold(trend, tolerance, raise_by, capacity, threshold)
    skewed = {"forward": o.skew_forward_kl, "reverse": o.skew_reverse_kl}[direction]
    source = written(job, max_new_tokens, sampling_temperature, threshold=pace)
    return job.stage(skewed(skew=skew), source=source)


@recipe(paper="MiniLLM: Knowledge Distillation of Large Language Models", year=2024, field="language",
        needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def minillm(
    job: Job,
    alpha: float = 0.2,
    gamma: float = 0.95,
    inner: int = 4,
    clip: float = 0.2,
    single_step: float = 1.0,
    lm: float = 1.0,
    per_length: bool = True,
    reward_clip: float = 100.0,
    max_new_tokens: int = 128,
) -> Stage:
    """Reverse KL over whole answers by policy gradient: write what the teacher would find likely, not all it could say.

    limbeck distill minillm teacher=... student=... data=answers.jsonl

    Answers are drawn from alpha teacher + (1 - alpha) student and weighed by student / mixture, so that no text without sense
    is rewarded; a token's reward is log p_teacher - log p_student, its return the discounted (gamma) rewards from it on,
    divided by their number (`per_length`), whitened over the step; `inner` clipped steps on each rollout. To these come the
    exact KL(student || teacher) at the sampled places, weighed alike (`single_step`), and `lm` cross-entropy of as many given
    answers, which stand for the paper's pretraining text (Gu et al., 2024). The released code whitens over padding too.
    """
    term = o.policy_gradient(clip=clip, weight="weight").among("own")
    objective = term + single_step * o.weighed(o.reverse_kl().among("own"), "weight")
    source = written(
        job, max_new_tokens, 1.0, mix=alpha, score=("old", "teacher"), reuse=inner, beside=job.data.train,
        judge=lambda rollout: returns(rollout, alpha, gamma, reward_clip, per_length),
    )  # fmt: skip
    return job.stage(objective + lm * o.cross_entropy().among("given"), source=source)


def returns(rollout: Rollout, alpha: float, gamma: float, reward_clip: float, per_length: bool) -> dict[str, Any]:
    """MiniLLM's advantages and importance weights of every token of a step's answers."""
    from torch.nn.utils.rnn import pad_sequence

    from limbeck.functional import importance_weights, remaining_returns, token_rewards, whiten

    old, teacher = (pad_sequence(rollout.tokens[name], batch_first=True) for name in ("old", "teacher"))
    sizes = [len(row) for row in rollout.tokens["old"]]
    mask = pad_sequence([row.new_ones(len(row)) for row in rollout.tokens["old"]], batch_first=True)
    rewards = token_rewards(old, teacher, clip=reward_clip)
    values = whiten(remaining_returns(rewards, mask, gamma=gamma, average=per_length), mask)
    weights = importance_weights(old, teacher, alpha=alpha)
    return {name: [row[:size] for row, size in zip(found, sizes)]
            for name, found in (("advantage", values), ("weight", weights))}  # fmt: skip


@recipe(paper="Multi-Granularity Semantic Revision for Large Language Model Distillation (on the student's answers)",
        year=2024, field="language", needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def scrg(job: Job, sft: float = 1.0, dac: float = 1.0, span: float = 1.0, span_size: int = 3, top_k: int | None = 64,
         repair: bool = True, max_new_tokens: int = 128, sampling_temperature: float = 1.0) -> Stage:  # fmt: skip
    """Let the student write, mend its answer at its worst token, let it go on from there, and learn the result.

    limbeck distill scrg teacher=... student=... data=answers.jsonl

    Sequence correction and re-generation: where student and teacher would choose differently, the token whose probability the
    student puts highest above the teacher's becomes the teacher's choice, and the student writes the rest anew. On these
    answers and as many given ones: `mgsr`'s dac KL and span distance; on the given ones alone, sft CE (Liu et al., 2024).
    `repair=False` learns the answers as they were written. No code is published: which token is the worst, and that one is
    mended in each answer, are our reading.
    """
    objective = dac * o.learned_subset_kl() + span * o.span_correlation(size=span_size, top_k=top_k)
    source = written(job, max_new_tokens, sampling_temperature, repair=repair, beside=job.data.train)
    return job.stage(sft * o.cross_entropy().among("given") + objective, source=source)


@recipe(paper="Explain in Your Own Words: Token-Selective Dual Knowledge Distillation", year=2026, field="language",
        needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def tsd_kd(job: Job, lmbda: float = 1.0, beta: float = 0.9, k: int = 10, indirect: float = 0.1, entropy: float = 1.0,
           opening_share: float = 0.1, entropy_share: float = 0.1, max_new_tokens: int = 128,
           sampling_temperature: float = 0.9) -> Stage:  # fmt: skip
    """On the student's own answers: match the teacher where it is surer, rank the first tokens, and lower the doubt.

    limbeck distill tsd_kd teacher=... student=... data=answers.jsonl

    JSD (beta) weighed by sigmoid(H(student) - H(teacher)); plus `indirect` times the Plackett-Luce loss of the student's k
    likeliest tokens in the teacher's order, over the opening (until `opening_share` of an answer's entropy is spent); plus
    `entropy` times the student's entropy over the `entropy_share` of tokens where it is highest (2026). Shares are taken
    within each answer and these two terms averaged over answers. The released code ranks the wrong way round, keeps 90 % of
    the tokens for the entropy, and takes places in the whole batch for places in an answer: the paper is followed.
    """
    objective = o.gap_weighted_jensen_shannon(beta=beta) + indirect * o.selected(
        o.topk_plackett_luce(k=k), "opening", share=opening_share
    )
    objective = objective + entropy * o.selected(o.entropy(), "uncertain", share=entropy_share)
    return job.stage(objective, source=written(job, max_new_tokens, sampling_temperature, student=lmbda))
