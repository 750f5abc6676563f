"""FIRST: a calibrated teacher's five likeliest classes, against an uncalibrated teacher's and no teacher."""

from __future__ import annotations

from _common import BUDGET, score, trained

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On TREC questions with an over-trained teacher, a student of its calibrated five likeliest classes has a "
    "lower calibration error than one of the uncalibrated classes and than one trained on labels, and is at most "
    "a point less accurate than either."
)
SEEDS = range(3)
NOTE = (
    "Bags of words in the place of transformers: teacher 256 wide trained for 1,500 steps without decay, student "
    "32 wide."
)
STEPS = {**BUDGET, "steps": 800}


def measure(seed: int) -> dict[str, float]:
    data = lb.load_data("trec", seed=seed, valid=0.15)
    given = {"seed": seed, "data": data}
    teacher = trained("alone", student="bag(width=256)", weight_decay=0.0, best="last", **given).student
    student = {**given, **STEPS, "student": "bag(width=32)", "best": "last"}
    runs = {
        "first": trained("first", teacher=teacher, **student),
        "uncalibrated": trained("first", teacher=teacher, calibrate=False, **student),
        "alone": trained("alone", **student),
    }
    found = {f"{name}_{kind}": score(run, kind) for name, run in runs.items() for kind in ("ece", "accuracy")}
    return {**found, "teacher_ece": score(runs["first"], "ece", role="teacher")}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    calibrated = {other: paired(rows, "first_ece", f"{other}_ece") for other in ("uncalibrated", "alone")}
    accurate = {other: paired(rows, "first_accuracy", f"{other}_accuracy") for other in ("uncalibrated", "alone")}
    words = "; ".join(
        f"against {other}: calibration error {calibrated[other][0]:+.1f} ± {calibrated[other][1]:.1f} points, accuracy "
        f"{accurate[other][0]:+.1f} ± {accurate[other][1]:.1f}" for other in calibrated
    )  # fmt: skip
    stands = all(gap + error < 0 for gap, error in calibrated.values()) and all(
        gap >= -1 for gap, _ in accurate.values()
    )
    return stands, f"FIRST {words}."
