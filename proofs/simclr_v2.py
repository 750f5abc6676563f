"""Five labels of a class: pretraining without labels, fine-tuning, and a small student of the result."""

from __future__ import annotations

from typing import Any

from _common import score, trained, valid_accuracy

from limbeck.proving import paired

SMALL, BIG = "cnn(width=4, depth=3)", "cnn(width=16, depth=3)"
CLAIM = (
    "On digits with 50 labels, a CNN of 4 channels taught by one of 16 that was pretrained by SimCLR without labels is more "
    "accurate than the same CNN trained on the labels, and within 2 points of the big one taught by itself (mean of 5 seeds)."
)
SEEDS = range(5)
NOTE = (
    "The small CNN has a fourteenth of the big one's weights. 2,000 steps in all, of which 0.4 pretrain and 0.1 fine-tune; "
    "views are shifts by one pixel. Temperature of the contrast 0.1 or 0.5, rate of the student alone 3e-3 or 1e-3: the better "
    "on validation. Beside it: the small CNN as its own big network, and the big CNN on the labels alone."
)
BUDGET: dict[str, Any] = {"steps": 2000, "labelled": 50, "valid": 0.15, "test": 0.25, "batch_size": 128}


def measure(seed: int) -> dict[str, float]:
    def best(*ways: dict[str, Any]) -> float:
        return score(max((trained(seed=seed, **{**BUDGET, **way}) for way in ways), key=valid_accuracy))

    def simclr(student: str, big: str) -> float:
        return best(*({"recipe": "simclr_v2", "student": student, "big": big, "temperature": t} for t in (0.1, 0.5)))

    def alone(student: str) -> float:
        return best(*({"recipe": "alone", "student": student, "learning_rate": rate} for rate in (3e-3, 1e-3)))

    return {"small": simclr(SMALL, BIG), "big": simclr(BIG, BIG), "itself": simclr(SMALL, SMALL),
            "alone": alone(SMALL), "big_alone": alone(BIG)}  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    alone, error = paired(rows, "small", "alone")
    behind, behind_error = paired(rows, "big", "small")
    itself, itself_error = paired(rows, "small", "itself")
    big, big_error = paired(rows, "small", "big_alone")
    return alone > 2 * error and behind < 2, (
        f"The small student {alone:+.1f} ± {error:.1f} points over its labels alone, {behind:.1f} ± {behind_error:.1f} behind "
        f"the big one, {itself:+.1f} ± {itself_error:.1f} over itself as big network, {big:+.1f} ± {big_error:.1f} over the "
        "big one on its labels alone."
    )
