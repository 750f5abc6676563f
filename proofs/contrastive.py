"""The other rows of a batch are negatives for nothing."""

from __future__ import annotations

from _rankings import NOTE as SHARED
from _rankings import worth

from limbeck.proving import paired

CLAIM = (
    "Without a teacher, the answers and candidates of the other rows of a batch as negatives (in-batch contrastive training) "
    "give a higher nDCG@10 on Cranfield than a row's own candidates alone."
)
SEEDS = range(3)
NOTE = SHARED


def measure(seed: int) -> dict[str, float]:
    found = {"contrastive": worth("contrastive", seed), "alone": worth("alone", seed)}
    return {f"{name}_{key}": value for name, pair in found.items() for key, value in zip(("ndcg", "order"), pair)}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "contrastive_ndcg", "alone_ndcg")
    return (
        gap > 2 * error,
        f"In-batch contrastive training is {gap:+.3f} ± {error:.3f} nDCG@10 from a row's own candidates alone.",
    )
