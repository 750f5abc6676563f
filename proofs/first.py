"""FIRST: a calibrated teacher's five likeliest classes, against an uncalibrated teacher's and no teacher."""

from __future__ import annotations

import copy

from _common import BUDGET, score, trained

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On TREC questions with an over-trained teacher, a student that knows the task and learns its calibrated five "
    "likeliest classes has a lower calibration error than one that goes on with the uncalibrated classes and one "
    "that goes on with labels, and is at most a point less accurate than either."
)
SEEDS = range(3)
NOTE = (
    "Bags of words in the place of transformers: a teacher 256 wide, trained for 1,500 steps at 2e-2 without "
    "decay; all students 32 wide and trained on labels for 400 steps before 400 more. Beside it: a fresh student, "
    "by the paper's form, which says nothing of classes outside the five, and with these as one more class."
)
STEPS = {**BUDGET, "steps": 400, "best": "last"}


def measure(seed: int) -> dict[str, float]:
    data = lb.load_data("trec", seed=seed, valid=0.15)
    given = {"seed": seed, "data": data}
    teacher = trained(
        "alone", student="bag(width=256)", weight_decay=0.0, learning_rate=2e-2, best="last", **given
    ).student
    warm = trained("alone", student="bag(width=32)", **given, **STEPS).student
    fresh = {"student": "bag(width=32)", "teacher": teacher, **given, **STEPS, "steps": 800}
    more = {"teacher": teacher, **given, **STEPS}
    runs = {
        "first": trained("first", student=copy.deepcopy(warm), **more),
        "uncalibrated": trained("first", student=copy.deepcopy(warm), calibrate=False, **more),
        "alone": trained("alone", student=copy.deepcopy(warm), **given, **STEPS),
        "fresh": trained("first", **fresh),
        "fresh_rest": trained("first", missing="rest", **fresh),
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
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    stands = all(gap + error < 0 for gap, error in calibrated.values()) and all(
        gap >= -1 for gap, _ in accurate.values()
    )
    return stands, (
        f"FIRST {words}; the teacher's calibration error is {means['teacher_ece']:.1f}. Fresh students: accuracy "
        f"{means['fresh_accuracy']:.1f} by the five classes alone, {means['fresh_rest_accuracy']:.1f} with the rest."
    )
