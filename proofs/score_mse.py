"""Numbers are enough where they are on the student's own scale."""

from __future__ import annotations

from _rankings import NOTE as SHARED
from _rankings import worth

from limbeck.proving import paired

CLAIM = (
    "Where the teacher's scores are on the student's scale, matching them number by number gives a higher nDCG@10 on Cranfield "
    "than the answer alone (cross-entropy over the same five candidates), and orders held-out candidates more as the teacher "
    "does."
)
SEEDS = range(3)
NOTE = f"{SHARED} What becomes of it where scales differ is in the proof of margin_mse."


def measure(seed: int) -> dict[str, float]:
    found = {"points": worth("score_mse", seed), "margins": worth("margin_mse", seed), "alone": worth("alone", seed)}
    return {f"{name}_{key}": value for name, pair in found.items() for key, value in zip(("ndcg", "order"), pair)}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "points_ndcg", "alone_ndcg")
    order, order_error = paired(rows, "points_order", "alone_order")
    margins, margins_error = paired(rows, "points_ndcg", "margins_ndcg")
    return gap > 2 * error and order > 2 * order_error, (
        f"Pointwise MSE is {gap:+.3f} ± {error:.3f} nDCG@10 from the answer alone and {margins:+.3f} ± {margins_error:.3f} "
        f"from Margin-MSE; the share of pairs ordered as the teacher has them is {order:+.3f} ± {order_error:.3f} from the "
        f"answer alone."
    )
