"""Does a model that says 80 % come true in 80 of 100 cases? Bins of the confidence in the top class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, DataError
from limbeck.evaluation.shapes import tensor
from limbeck.functional.core import UNLABELLED


def _bins(probabilities: Any, labels: Any, bins: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges [bins + 1], and count, summed confidence, summed correctness [bins]."""
    if bins < 1:
        raise ArgumentError(f"bins={bins}: expected 1 or more.")
    chances, labels = tensor(probabilities).double(), tensor(labels)
    if chances.ndim == labels.ndim:  # one probability each, of class 1
        chances = torch.stack([1 - chances, chances], -1)
    if chances.shape[:-1] != labels.shape:
        raise DataError(f"probabilities have shape {list(chances.shape)} and labels {list(labels.shape)}; "
                        "expected [n, classes] and [n].")  # fmt: skip
    if not bool(((chances >= 0) & (chances <= 1 + 1e-6)).all()):
        raise ArgumentError("Calibration needs probabilities within 0 and 1; for logits, pass logits.softmax(-1).")
    keep = labels != UNLABELLED
    chances, labels = chances[keep], labels[keep]
    confidence, predicted = chances.max(-1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])  # lower < confidence <= upper
    count = torch.bincount(place, minlength=bins)
    trust = torch.bincount(place, weights=confidence, minlength=bins)
    right = torch.bincount(place, weights=(predicted == labels).double(), minlength=bins)
    return edges, count, trust, right


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> list[dict[str, float | int | None]]:
    """The points of a reliability diagram: equal-width bins of the top-label confidence.

    `probabilities` [n, classes], or [n] for class 1 of two; `labels` [n], -100 left out. A bin holds
    lower < confidence <= upper. Each dict has `lower`, `upper`, `count`, and the means `confidence` and `accuracy`,
    which are None in an empty bin. Raises ArgumentError for numbers outside [0, 1].
    """
    edges, count, trust, right = _bins(probabilities, labels, bins)
    return [
        {
            "lower": float(edges[i]), "upper": float(edges[i + 1]), "count": (n := int(count[i])),
            "confidence": float(trust[i]) / n if n else None, "accuracy": float(right[i]) / n if n else None,
        }
        for i in range(bins)
    ]  # fmt: skip


def ece(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Expected calibration error: mean of |accuracy - confidence| over the bins of `reliability`, weighed by count.

    Guo et al., On Calibration of Modern Neural Networks, 2017. NaN when no sample is labelled.
    """
    _, count, trust, right = _bins(probabilities, labels, bins)
    total = int(count.sum())
    return float((trust - right).abs().sum()) / total if total else float("nan")
