"""DIST: correlations instead of values."""

from __future__ import annotations

from _common import score, teacher, trained, valid_accuracy

from limbeck.proving import paired

CLAIM = (
    "On digits with 100 labels and unlabelled images DIST is at least as accurate as KD (no more than 0.3 points below), each "
    "with one weight tuned on validation, and more accurate than the same student alone."
)
SEEDS = range(5)
NOTE = (
    "Three weights each: beta = gamma of 1, 2, 4 for DIST; soft of 0.5, 0.9, 1.0 for KD. CNN teacher, mlp:32 student."
)


def measure(seed: int) -> dict[str, float]:
    few = {"seed": seed, "labelled": 100}
    dist = max(
        (trained("dist", teacher=teacher(seed), beta=w, gamma=w, **few) for w in (1.0, 2.0, 4.0)), key=valid_accuracy
    )
    kd = max((trained("kd", teacher=teacher(seed), soft=w, **few) for w in (0.5, 0.9, 1.0)), key=valid_accuracy)
    return {
        "dist": score(dist), "kd": score(kd), "alone": score(trained("alone", **few)),
        "dist_loyalty": score(dist, "probability_loyalty"), "kd_loyalty": score(kd, "probability_loyalty"),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "dist", "kd")
    above, above_error = paired(rows, "dist", "alone")
    return gap >= -0.3 and above > 2 * above_error, (
        f"DIST is {gap:+.2f} ± {error:.2f} points from KD and {above:+.1f} ± {above_error:.1f} from the student alone."
    )
