"""A masked autoencoder: does it help to have filled in hidden patches before a few labels are learned?"""

from __future__ import annotations

from typing import Any

from _common import score, trained, valid_accuracy

from limbeck.data import load_data
from limbeck.proving import paired

CLAIM = (
    "On digits of which 50 have labels, a small vision transformer that first fills in the hidden patches of all images is "
    "more accurate than by its labels alone, after as many updates (mean of 5 seeds)."
)
SEEDS = range(5)
NOTE = (
    "3 blocks, 32 wide, patches of 2x2 pixels, 3/4 hidden; 1500 updates of batch 32 in all. Each tuned on validation with four "
    "ways: rates of 1e-3 and 3e-3, for the autoencoder with half or three quarters of the updates before the labels, for the "
    "student alone with all or a third of the updates."
)
STUDENT = "vit(width=32, depth=3, patch=2)"
STEPS = 1500


def measure(seed: int) -> dict[str, float]:
    data = load_data(load_data("digits", seed=0), labelled=50, seed=seed)
    few: dict[str, Any] = {"seed": seed, "data": data, "student": STUDENT, "batch_size": 32, "evaluate_every": 125}
    rates = (1e-3, 3e-3)
    mae = [
        trained("mae", before=before, steps=STEPS, learning_rate=rate, **few)
        for rate in rates
        for before in (0.5, 0.75)
    ]
    alone = [
        trained("alone", steps=steps, learning_rate=rate, **few) for rate in rates for steps in (STEPS, STEPS // 3)
    ]
    return {"mae": score(max(mae, key=valid_accuracy)), "alone": score(max(alone, key=valid_accuracy))}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gain, error = paired(rows, "mae", "alone")
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    return gain > 2 * error, (
        f"{mean['mae']:.1f} % after the hidden patches, {mean['alone']:.1f} % by the labels alone: {gain:+.1f} ± {error:.1f} "
        "points."
    )
