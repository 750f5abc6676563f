"""Scores of next-token predictions, added up over blocks of tokens so that whole logits need never exist."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import DataError
from limbeck.evaluation.fidelity import Fidelity

BINS = 15


class TokenTally:
    """What is summed over tokens: nll, hits, calibration bins; beside a teacher also how close the two are.

    Feed it blocks of rows (`add`), then ask for `scores`, `agreement` and `reliability`.
    """

    def __init__(self) -> None:
        self.count, self.hits, self.nll = 0, 0, 0.0
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # count, confidence, hits
        self.pairs, self.ordered = 0, 0
        self.fidelity = Fidelity("top1_agreement")
        self.bytes = 0  # of text that the tokens are, where they were counted

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
        self.fidelity.add(
            log_q if size == student.shape[-1] else _log_softmax(student[..., :size]),
            _log_softmax(teacher[..., :size]), labels,
        )  # fmt: skip

    def add_pairs(self, chosen: Tensor, rejected: Tensor) -> None:
        """Log-probabilities of the chosen and of the rejected answers [pairs]."""
        self.pairs += len(chosen)
        self.ordered += int((chosen > rejected).sum())

    def scores(self) -> dict[str, float]:
        """`perplexity` (e to the mean nll), `token_accuracy`, `nll` (nats per token) and `ece` (15 bins).

        Of preference pairs also `preference_accuracy`: in how many the chosen answer is the likelier one.
        Where bytes were counted also `bits_per_byte`, which tokenizers do not change.
        """
        if not self.count:
            raise DataError("No token is labelled (all are -100), so there is nothing to score.")
        mean = self.nll / self.count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        preferred = {"preference_accuracy": self.ordered / self.pairs} if self.pairs else {}
        return {
            "perplexity": perplexity, "token_accuracy": self.hits / self.count, "nll": mean,
            "ece": float((self.bins[1] - self.bins[2]).abs().sum()) / self.count, **preferred,
            **({"bits_per_byte": self.nll / self.bytes / math.log(2)} if self.bytes else {}),
        }  # fmt: skip

    def agreement(self) -> dict[str, float]:
        """How close student and teacher are, see `fidelity`: `kl_to_teacher` (nats per token), `top1_agreement`, ..."""
        return self.fidelity.result()

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
