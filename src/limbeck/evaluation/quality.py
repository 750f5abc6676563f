"""How good is a model by itself: scores of stored outputs. Pure functions, in double precision."""

from __future__ import annotations

from typing import Any

import torch

from limbeck.errors import DataError
from limbeck.evaluation.calibration import ece
from limbeck.evaluation.shapes import rows, values


def macro_f1(predicted: Any, labels: Any) -> float:
    """The F1 score averaged over the classes that appear in `labels` or `predicted` (both [n] int64)."""
    predicted, labels = torch.as_tensor(predicted), torch.as_tensor(labels)
    classes = int(max(predicted.max(), labels.max())) + 1
    hits = torch.bincount(labels[predicted == labels], minlength=classes)
    seen = torch.bincount(predicted, minlength=classes) + torch.bincount(labels, minlength=classes)
    return float((2 * hits[seen > 0].double() / seen[seen > 0]).mean())


def classification_scores(logits: Any, labels: Any) -> dict[str, float]:
    """Scores of a classifier. `logits` [n, classes] (or [n], one logit of class 1), `labels` [n]; -100 is left out.

    - `accuracy`: share of rows whose largest logit is the label's.
    - `macro_f1`: mean F1 over the classes that appear in labels or predictions.
    - `nll`: mean of -log p(label), in nats; infinite where a label was given probability zero.
    - `brier`: mean over samples of the sum over classes of (p - one-hot)^2, from 0 to 2; for two classes this is twice
      the one-column form (Brier, 1950).
    - `ece`: expected calibration error, 15 equal-width bins of the top-label confidence (Guo et al., 2017).

    Raises DataError when nothing is labelled or a label is no class, ModelError when logits are NaN.
    """
    wide, truth = rows(logits, labels)
    log_chances = wide.log_softmax(-1)
    chances, predicted = log_chances.exp(), wide.argmax(-1)
    at_label = truth.unsqueeze(-1)
    brier = chances.square().sum(-1) - 2 * chances.gather(-1, at_label).squeeze(-1) + 1
    return {
        "accuracy": float((predicted == truth).double().mean()),
        "macro_f1": macro_f1(predicted, truth),
        "nll": float(-log_chances.gather(-1, at_label).mean()),
        "brier": float(brier.clamp(min=0).mean()),
        "ece": ece(chances, truth),
    }


def regression_scores(predictions: Any, labels: Any) -> dict[str, float]:
    """Scores of a regressor. `predictions` and `labels` [n] or [n, targets]; rows with a NaN label are left out.

    `mse` and `mae` are means over rows and targets; `r2` is the mean over targets of 1 - SSE / SST. As in scikit-learn,
    a constant target counts 1 when it is met exactly and 0 otherwise, and `r2` is NaN below two rows.
    Raises DataError when shapes do not meet or nothing is labelled.
    """
    predicted, truth = values(predictions, labels, ("predictions", "labels"))
    keep = ~truth.isnan().any(-1)
    predicted, truth = predicted[keep], truth[keep]
    if not len(truth):
        raise DataError("No sample has a label (all are NaN), so there is nothing to score.")
    error = predicted - truth
    missed = error.square().sum(0)
    spread = (truth - truth.mean(0)).square().sum(0)
    r2 = torch.where(spread > 0, 1 - missed / spread.clamp(min=torch.finfo(spread.dtype).tiny), (missed == 0).double())
    return {
        "mse": float(error.square().mean()),
        "mae": float(error.abs().mean()),
        "r2": float(r2.mean()) if len(truth) > 1 else float("nan"),
    }
