"""On the Generalization vs Fidelity Paradox (2025) on digits: as good is not the same as alike."""

from __future__ import annotations

from _common import score, teacher, trained

from limbeck.proving import paired

CLAIM = (
    "Two students of equal accuracy (within a point) can be of different fidelity: with all labels of digits, the one trained "
    "by KD has at most half the KL to its teacher, and at least 5 points more equal second choices, than the one trained alone."
)
SEEDS = range(5)
NOTE = (
    "The student is mlp:32, the teacher a CNN trained on all labels; accuracy, agreement and second choices in percent, KL in "
    "nats, on the test part. Learnt: accuracy and agreement are as good as equal, and the KL is smaller by KD in four of five "
    "seeds, but by a third and not by half, and the second choices differ by seed too much; so much fidelity was not gained "
    "here."
)
MEASURES = {"accuracy": "accuracy", "agreement": "label_agreement", "second": "second_choice_agreement"}


def measure(seed: int) -> dict[str, float]:
    found = {}
    for name in ("kd", "alone"):
        run = trained(name, seed=seed, teacher=teacher(seed))
        found |= {f"{name}_{short}": score(run, key) for short, key in MEASURES.items()}
        found[f"{name}_kl"] = score(run, "kl_to_teacher") / 100  # `score` is in percent
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    (right, right_error), (same, same_error), (second, second_error) = (
        paired(rows, f"kd_{short}", f"alone_{short}") for short in MEASURES
    )
    near, far = (sum(row[f"{name}_kl"] for row in rows) / len(rows) for name in ("kd", "alone"))
    return abs(right) <= 1 and near <= far / 2 and second - 2 * second_error >= 5, (
        f"KD against alone: accuracy {right:+.1f} ± {right_error:.1f} points, agreement {same:+.1f} ± {same_error:.1f}, equal "
        f"second choices {second:+.1f} ± {second_error:.1f}; KL to the teacher {near:.3f} against {far:.3f} nats."
    )
