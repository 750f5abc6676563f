"""DistiLLM on sums: old answers used again spare most of the writing."""

from __future__ import annotations

from _language import reason_start, reasoned, score

from limbeck.proving import paired

CLAIM = (
    "With all batches from the student (threshold 1), DistiLLM's replay writes at most 70 % of the answers that GKD writes, "
    "and the student is right on no fewer new sums, to 3 points."
)
SEEDS = range(3)
NOTE = (
    "The adaptive threshold itself starts at 0 and rises only when the validation loss is 0.1 above the one from before the "
    "training, which here never happens: at its defaults DistiLLM would write nothing. So the threshold is given, and what is "
    "measured is the replay buffer (of 1,000 answers) and its falling share of new answers."
)
COMMON = {"max_new_tokens": 32, "steps": 200}


def measure(seed: int) -> dict[str, float]:
    start = reason_start(seed)
    runs = {
        "distillm": reasoned("distillm", seed, start, threshold=1.0, **COMMON),
        "gkd": reasoned("gkd", seed, start, lmbda=1.0, **COMMON),
    }
    found = {name: score(run, "exact_match") for name, run in runs.items()}
    return found | {f"{name}_written": run.record["generated"][0]["student_samples"] for name, run in runs.items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "distillm", "gkd")
    written = sum(row["distillm_written"] for row in rows) / max(1.0, sum(row["gkd_written"] for row in rows))
    return gap >= -3 and written <= 0.7, (
        f"{gap:+.1f} ± {error:.1f} points of exact match from GKD, with {100 * written:.0f} % of its written answers."
    )
