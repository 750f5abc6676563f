"""KDRL on sums: verified rewards and a teacher together, beside each of them alone."""

from __future__ import annotations

from _language import reason_start, reasoned, sampled_match, score

from limbeck.proving import paired

CLAIM = (
    "After 200 updates on its own answers from the same start, a student of sums is right on more new sums by KDRL than by the "
    "rewards alone (GRPO), and on at least as many as by the teacher alone (reverse KL)."
)
SEEDS = range(3)
NOTE = (
    "4 prompts with 8 answers each in an update, a learning rate of 3e-4, beta 0.1; `small` has the paper's 2e-3. Greedy "
    "answers; sampled_: drawn at temperature 1, at which the teacher itself is right far less often."
)
BUDGET = {"steps": 200, "learning_rate": 3e-4, "max_new_tokens": 32}


def measure(seed: int) -> dict[str, float]:
    start = reason_start(seed)
    runs = {
        "kdrl": reasoned("kdrl", seed, start, beta=0.1, **BUDGET),
        "grpo": reasoned("kdrl", seed, start, beta=0.0, **BUDGET),
        "teacher_alone": reasoned("kdrl", seed, start, beta=1.0, reward=0.0, **BUDGET),
        "small": reasoned("kdrl", seed, start, **BUDGET),
    }
    found = {name: score(run, "exact_match") for name, run in runs.items()}
    found |= {f"sampled_{name}": sampled_match(run.student, seed) for name, run in runs.items()}
    return found | {
        "teacher": score(runs["kdrl"], "exact_match", role="teacher"),
        "sampled_start": sampled_match(start, seed),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "kdrl", "grpo")
    other, other_error = paired(rows, "kdrl", "teacher_alone")
    small, small_error = paired(rows, "small", "grpo")
    drawn, drawn_error = paired(rows, "sampled_kdrl", "sampled_teacher_alone")
    return gap - error > 0 and other + other_error >= 0, (
        f"{gap:+.1f} ± {error:.1f} points of exact match from GRPO, {other:+.1f} ± {other_error:.1f} from the teacher alone "
        f"(answers drawn: {drawn:+.1f} ± {drawn_error:.1f}); with beta 2e-3 {small:+.1f} ± {small_error:.1f} from GRPO."
    )
