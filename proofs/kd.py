"""Hinton's distillation on digits: where it pays, and where it does not."""

from __future__ import annotations

from _common import score, teacher, trained

from limbeck.proving import paired

CLAIM = (
    "With a good teacher, 100 labels and 1,158 unlabelled digits, a student trained by KD is at least 3 points more accurate "
    "than the same student trained for as many updates on the 100 labels alone."
)
SEEDS = range(5)
NOTE = (
    "The student is mlp:32, the teacher a CNN trained on all labels. The counter-case is measured too: on all labels the same "
    "student alone and by KD (all_labels_*), where a gain is not claimed."
)


def measure(seed: int) -> dict[str, float]:
    few = {"seed": seed, "labelled": 100}
    everything = trained("kd", teacher=teacher(seed), **few)
    return {
        "teacher": score(everything, role="teacher"),
        "kd": score(everything),
        "alone": score(trained("alone", **few)),
        "all_labels_kd": score(trained("kd", teacher=teacher(seed), seed=seed)),
        "all_labels_alone": score(trained("alone", seed=seed)),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "kd", "alone")
    other, other_error = paired(rows, "all_labels_kd", "all_labels_alone")
    return gap - 2 * error >= 3, (
        f"KD is {gap:.1f} ± {error:.1f} points above the student alone with 100 labels; with all labels the difference is "
        f"{other:+.1f} ± {other_error:.1f}."
    )
