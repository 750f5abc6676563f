"""A distribution over candidates says more than which of them is the answer."""

from __future__ import annotations

from _rankings import NOTE as SHARED
from _rankings import worth

from limbeck.proving import paired

CLAIM = (
    "On the same five candidates of a row, the teacher's distribution over them (list-wise KL) gives a higher nDCG@10 on "
    "Cranfield than the answer alone (cross-entropy), and orders held-out candidates more as the teacher does."
)
SEEDS = range(3)
NOTE = (
    f"{SHARED} Temperature 1, the teacher's scores times 4, so that the softmax over five is neither even nor one-hot."
)


def measure(seed: int) -> dict[str, float]:
    found = {
        "kl": worth("listwise_kl", seed, scale=4),
        "margins": worth("margin_mse", seed, scale=4),
        "alone": worth("alone", seed),
    }
    return {f"{name}_{key}": value for name, pair in found.items() for key, value in zip(("ndcg", "order"), pair)}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "kl_ndcg", "alone_ndcg")
    order, order_error = paired(rows, "kl_order", "alone_order")
    margins, margins_error = paired(rows, "kl_ndcg", "margins_ndcg")
    return gap > 2 * error and order > 2 * order_error, (
        f"List-wise KL is {gap:+.3f} ± {error:.3f} nDCG@10 from the answer alone and {margins:+.3f} ± {margins_error:.3f} "
        f"from Margin-MSE; the share of pairs ordered as the teacher has them is {order:+.3f} ± {order_error:.3f} from the "
        f"answer alone."
    )
