"""Sequence-level distillation on sums: what the teacher writes down is worth more than the bare results."""

from __future__ import annotations

from _language import REASON, check, given_answers, reason_teacher, score, tiny_reason, trained

from limbeck.proving import paired

CLAIM = (
    "With 1,000 sums and 900 updates, a student of the teacher's own answers, which write out every carry, is right on more "
    "new sums than the same student of as many given results without a way to them."
)
SEEDS = range(3)
NOTE = (
    "One answer of the teacher to each sum, at temperature 1; those that are cut or empty would be left out. Batches of both "
    "students are shuffled alike. Given answers with their carries are not compared: the teacher's are nearly the same."
)
BUDGET = {**REASON, "steps": 900, "batch_size": 32, "generate": 200, "checker": check, "student": "decoder:2,64"}


def measure(seed: int) -> dict[str, float]:
    chains, results = tiny_reason(1000, seed), tiny_reason(1000, seed, chain=False)
    taught = trained("seq_kd", seed=seed, data=chains, teacher=reason_teacher(), max_new_tokens=32, **BUDGET)
    return {
        "seq_kd": score(taught, "exact_match"),
        "results": score(trained(given_answers, seed=seed, data=results, **BUDGET), "exact_match"),
        "answers_written": taught.record["generated"][0]["teacher_samples"],
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "seq_kd", "results")
    return gap - error > 0, f"{gap:+.1f} ± {error:.1f} points of exact match from a student of bare results."
