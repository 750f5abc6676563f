"""Towards the Law of Capacity Gap in Distilling Language Models (2023) on oracle-markov: how large a teacher?"""

from __future__ import annotations

from _language import Oracle, score, trained

from limbeck.evaluation.capacity import capacity_law, peak
from limbeck.evaluation.cost import parameters

CLAIM = (
    "The best teacher is neither the smallest nor the largest: for each of two students a peak of test NLL over five teacher "
    "widths is seen, its 95 % bootstrap interval strictly between the ends and its best clearly better than both."
)
SEEDS = range(5)
NOTE = (
    "Oracle-markov of order 2 over 8 symbols in place of tiny-lm: five teachers, 1 layer of width 8 to 128, are trained on the "
    "same 1,000 strings for 300 steps each and kept at their best on held-out strings; students of width 8 and 16 learn by KL "
    "on the same strings for 150 steps. NLL in nats per token on 100 test strings: teacher_ of a teacher, s<width>_ of a "
    "student."
)
TEACHERS, STUDENTS, LENGTH = (8, 16, 32, 64, 128), (8, 16), 32
BUDGET = {"batch_size": 16, "learning_rate": 3e-3}


def measure(seed: int) -> dict[str, float]:
    oracle, found = Oracle(symbols=8, seed=seed), {}
    parts = {"train": (1000, 0), "valid": (100, 1), "test": (100, 2)}
    data = oracle.data(
        {name: oracle.sample(number, LENGTH, 10 * seed + place) for name, (number, place) in parts.items()}
    )
    for width in TEACHERS:
        teacher = trained(
            "alone", seed=seed, data=data, student=oracle.model(1, width, seed), steps=300, evaluate_every=30, **BUDGET
        )
        found[f"teacher_{width}"] = score(teacher)
        for small in STUDENTS:
            run = trained("lm_kd", kd=1.0, seed=seed, data=data, teacher=teacher.student, monitor=False, steps=150, best="last",
                          student=oracle.model(1, small, seed + 1000), evaluate_every=150, **BUDGET)  # fmt: skip
            found[f"s{small}_{width}"] = score(run)
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    oracle = Oracle(symbols=8)
    sizes = {width: parameters(oracle.model(1, width)) for width in (*TEACHERS, *STUDENTS)}
    peaks = {
        small: peak(
            [sizes[w] for w in TEACHERS], [[row[f"s{small}_{w}"] for row in rows] for w in TEACHERS], better="less"
        )
        for small in STUDENTS
    }
    law = capacity_law([sizes[small] for small in STUDENTS], [found.size for found in peaks.values()])
    width = {size: name for name, size in sizes.items()}
    said = "; ".join(
        f"student {small}: best teacher {width[found.size]}, interval {width[found.low]} to {width[found.high]}, "
        f"{'a peak' if found.seen else 'no peak seen'}" for small, found in peaks.items()
    )  # fmt: skip
    return all(
        found.seen for found in peaks.values()
    ), f"{said} (widths). Best teacher by parameters: {law.ratio:.1f} x the student."
