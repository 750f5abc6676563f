"""Recipes in which a checker's rewards and a teacher lead together, on the student's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.recipes.language.on_policy import written
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.on_policy import Judge
    from limbeck.training.stage import Stage

Taught = Literal["all", "failed", "unsolved"]


def judge_of_groups(answers: int, taught: Taught) -> Judge:
    """Of every token of an answer "advantage", its group's, and "taught": whether the teacher corrects it."""
    from limbeck import functional as f

    def judge(rollout: Any) -> dict[str, list[Any]]:
        rewards = rollout.rewards.view(-1, answers)
        kept = rewards.new_ones(rewards.shape)
        if taught != "all":
            kept = f.unsolved(rewards, by="answer" if taught == "failed" else "group")
        each = {"advantage": f.group_advantages(rewards), "taught": kept.to(rewards.dtype)}
        sizes = rollout.answers.sizes.tolist()
        return {
            name: [value.expand(size) for value, size in zip(values.flatten(), sizes)] for name, values in each.items()
        }

    return judge


@recipe(paper="KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and Reinforcement Learning", year=2025,
        field="language", needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def kdrl(job: Job, beta: float = 2e-3, beta_end: float | None = None, reward: float = 1.0, taught: Taught = "all",
         answers: int = 8, checker: Any = "number", clip: float = 0.2, max_new_tokens: int = 128,
         temperature: float = 1.0, reuse: int = 1) -> Stage:  # fmt: skip
    """Learn from verified answers and from a teacher at once, on what the student itself writes.

    limbeck distill kdrl teacher=... student=... data=problems.jsonl checker=number answers=8

    Of every prompt `answers` samples; reward * clipped policy gradient of the group's advantages (GRPO: (r - mean) / (std +
    1e-4), clip 0.2) + beta * k2, both summed over tokens and divided by the number of all tokens of the step (KDRL, 2025: of
    the group; equal for one group a step). k2 = (log p_T - log p_S)^2 / 2 has the gradient of the reverse KL; in a group
    where all fail or succeed it teaches alone. `beta_end`: beta goes there in a line (5e-3 to 1e-3). `taught`: only answers
    that "failed", or those in "unsolved" groups. reward=0 is the reverse KL alone, beta=0 GRPO. `checker` compares an answer
    with the data's response: "exact", "final", "number", or a function. No code was released.
    """
    from limbeck.evaluation.checkers import as_checker

    source = written(
        job, max_new_tokens, temperature, answers=answers, checker=as_checker(checker), reuse=reuse,
        judge=judge_of_groups(answers, taught), score=("old",) if reuse > 1 else (),
    )  # fmt: skip
    weight = beta if beta_end is None else o.ramp(beta, beta_end)
    return job.stage(reward * o.policy_gradient(clip=clip) + weight * o.kl_estimate(by="taught"), source=source)
