"""Scores of next-token predictions, added up over blocks of tokens so that whole logits need never exist."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import DataError

BINS = 15


class TokenTally:
    """What is summed over tokens: nll, hits, calibration bins; beside a teacher also KL and agreement.

    Feed it blocks of rows (`add`), then ask for `scores`, `agreement` and `reliability`.
    """

    def __init__(self) -> None:
        self.count, self.hits, self.nll = 0, 0, 0.0
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # count, confidence, hits
        self.pairs, self.ordered = 0, 0
        self.compared, self.kl = 0, 0.0
        self.agreed = {"": [0, 0], "_teacher_right": [0, 0], "_teacher_wrong": [0, 0]}  # agreeing, all

    @torch.no_grad()
    def add(self, student: Tensor, labels: Tensor, teacher: Tensor | None = None) -> None:
        """Rows of logits [n, vocabulary] of the student and perhaps the teacher, and the next tokens [n]."""
        log_q = _log_softmax(student)
        self.count += len(labels)
        self.nll += float(F.nll_loss(log_q, labels, reduction="sum").double())
        top, named = log_q.max(-1)
        right = named == labels
        self.hits += int(right.sum())
        confidence = top.exp().double().cpu()
        place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
        for row, weights in enumerate((None, confidence, right.double().cpu())):
            self.bins[row] += torch.bincount(place, weights=weights, minlength=BINS)
        if teacher is None:
            return
        size = min(student.shape[-1], teacher.shape[-1])
        log_p, log_q = _log_softmax(teacher[..., :size]), log_q if size == student.shape[-1] else (
            _log_softmax(student[..., :size])
        )  # fmt: skip
        gap = (log_p.exp() * (log_p - log_q)).where(log_p > -torch.inf, 0).sum(-1)
        self.kl += float(gap.double().sum())
        self.compared += len(labels)
        theirs = log_p.argmax(-1)
        same, teacher_right = log_q.argmax(-1) == theirs, theirs == labels
        for suffix, chosen in (("", None), ("_teacher_right", teacher_right), ("_teacher_wrong", ~teacher_right)):
            kept = same if chosen is None else same[chosen]
            self.agreed[suffix][0] += int(kept.sum())
            self.agreed[suffix][1] += len(kept)

    def add_pairs(self, chosen: Tensor, rejected: Tensor) -> None:
        """Log-probabilities of the chosen and of the rejected answers [pairs]."""
        self.pairs += len(chosen)
        self.ordered += int((chosen > rejected).sum())

    def scores(self) -> dict[str, float]:
        """`perplexity` (e to the mean nll), `token_accuracy`, `nll` (nats per token) and `ece` (15 bins).

        Of preference pairs also `preference_accuracy`: in how many the chosen answer is the likelier one.
        """
        if not self.count:
            raise DataError("No token is labelled (all are -100), so there is nothing to score.")
        mean = self.nll / self.count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        preferred = {"preference_accuracy": self.ordered / self.pairs} if self.pairs else {}
        return {
            "perplexity": perplexity, "token_accuracy": self.hits / self.count, "nll": mean,
            "ece": float((self.bins[1] - self.bins[2]).abs().sum()) / self.count, **preferred,
        }  # fmt: skip

    def agreement(self) -> dict[str, float]:
        """`kl_to_teacher` (nats per token) and `label_agreement` (same likeliest token), also where the teacher is right."""
        if not self.compared:
            return {}
        shares = {f"label_agreement{suffix}": same / n for suffix, (same, n) in self.agreed.items() if n}
        return {"kl_to_teacher": self.kl / self.compared, **shares}

    def reliability(self) -> list[dict[str, Any]]:
        """The points of a reliability diagram over tokens, as `calibration.reliability` gives them over samples."""
        edges, rows = torch.linspace(0, 1, BINS + 1).tolist(), []
        for i, (n, trust, right) in enumerate(self.bins.t().tolist()):
            rows.append({
                "lower": edges[i], "upper": edges[i + 1], "count": int(n),
                "confidence": trust / n if n else None, "accuracy": right / n if n else None,
            })  # fmt: skip
        return rows


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
