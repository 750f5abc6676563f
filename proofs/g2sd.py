"""G2SD: does the decoder of a larger masked autoencoder teach something that its answers do not, where labels are few?"""

from __future__ import annotations

import copy
from typing import Any

from _common import score, trained, valid_accuracy
from dmae import BUDGET, SMALL, teacher

from limbeck.data import load_data
from limbeck.proving import paired

CLAIM = (
    "On digits of which 50 have labels, G2SD's two stages make a small vision transformer more accurate than the second stage "
    "alone, and than its labels alone, after as many updates (mean of 5 seeds)."
)
SEEDS = range(5)
NOTE = (
    "Teacher: a masked autoencoder of 4 blocks, 64 wide, with a decoder of 2, 1000 updates on all images and no label, then "
    "300 on the same 50 labels; students of 3 blocks, 32 wide, 1000 updates in all, patches of 2x2 pixels, 3/4 hidden. The "
    "share of the first stage, 0.5 or 0.75, is chosen on validation. KD, for comparison: temperature 4."
)


def measure(seed: int) -> dict[str, float]:
    model = teacher()
    data = load_data(load_data("digits", seed=0), labelled=50, seed=seed)  # the same parts, other labels
    few: dict[str, Any] = {**BUDGET, "seed": seed, "data": data, "student": SMALL, "steps": 1000}
    tuned = trained("alone", **{**few, "student": copy.deepcopy(model.encoder), "steps": 300}).student
    both: dict[str, Any] = {**few, "teacher": tuned, "pretrained": model}
    tries = {
        "g2sd": [trained("g2sd", before=each, **both) for each in (0.5, 0.75)],
        "specific": [trained("g2sd", before=0.001, **both)],  # one update of the generic stage
        "kd": [trained("kd", teacher=tuned, temperature=4.0, soft=0.7, **few)],
        "alone": [trained("alone", **few)],
    }
    best = {name: max(runs, key=valid_accuracy) for name, runs in tries.items()}
    return {name: score(run) for name, run in best.items()} | {"tuned_teacher": score(best["kd"], role="teacher")}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    specific, specific_error = paired(rows, "g2sd", "specific")
    alone, alone_error = paired(rows, "g2sd", "alone")
    kd, kd_error = paired(rows, "g2sd", "kd")
    return specific > 2 * specific_error and alone > 2 * alone_error, (
        f"G2SD is {specific:+.2f} ± {specific_error:.2f} points from its second stage alone, {alone:+.2f} ± {alone_error:.2f} "
        f"from the labels alone and {kd:+.2f} ± {kd_error:.2f} from KD."
    )
