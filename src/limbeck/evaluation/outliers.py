"""Does a score tell texts, or samples, of another kind from those of ours? A higher score says "other"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import DataError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.evaluation.shapes import tensor
from limbeck.functional.similarity import ranks

if TYPE_CHECKING:
    from limbeck.data.base import Part


def _pair(inside: Any, outside: Any) -> tuple[Tensor, Tensor]:
    found = [tensor(each).double().reshape(-1) for each in (inside, outside)]
    for name, values in zip(("inside", "outside"), found, strict=True):
        if not len(values) or bool(values.isnan().any()):
            raise DataError(f"The scores of the samples {name} are empty or NaN; expected one number for each.")
    return found[0], found[1]


def auroc(inside: Any, outside: Any) -> float:
    """The chance that a sample from outside scores higher than one from inside, ties one half. Scores [n] and [m]."""
    low, high = _pair(inside, outside)
    rank = ranks(torch.cat([low, high]))[len(low) :].sum() - len(high) * (len(high) + 1) / 2
    return float(rank / (len(low) * len(high)))


def average_precision(inside: Any, outside: Any) -> float:
    """The area under precision and recall of "outside", as steps: the sum over thresholds of precision * gain in recall (AUPR).

    Scores [n] and [m]; equal scores are one threshold. A score that says nothing has m / (n + m).
    """
    low, high = _pair(inside, outside)
    values, order = torch.cat([low, high]).sort(descending=True)
    positive = (order >= len(low)).double().cumsum(0)
    last = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool, device=values.device)])
    precision = (positive / torch.arange(1, len(values) + 1, device=values.device))[last]
    recall = positive[last] / len(high)
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


def far95(inside: Any, outside: Any) -> float:
    """The share of samples inside that score strictly above the threshold which 95 % of those outside reach.

    The threshold is the ascending score outside at place int(0.05 m), without interpolation, as MLKD's code has it (2023).
    """
    low, high = _pair(inside, outside)
    return float((low > high.sort().values[int(0.05 * len(high))]).double().mean())


def outlier_scores(inside: Any, outside: Any) -> dict[str, float]:
    """`auroc`, `aupr` and `far95` of scores [n] inside and [m] outside, as shares; outside counts as positive.

    Raises DataError for a side that is empty or has NaN.
    """
    return {
        "auroc": auroc(inside, outside), "aupr": average_precision(inside, outside), "far95": far95(inside, outside),
    }  # fmt: skip


def text_perplexities(model: nn.Module, texts: Part | Sequence[str], batch_size: int = 32) -> Tensor:
    """The perplexity of each text under a language model: e to the mean nll of its tokens but the first. float64 [n].

    `texts`: texts, read by the model's own tokenizer, with nothing put before or after but what that adds; or a part of token
    rows, one of a text. Raises DataError for a text of less than two tokens.
    """
    from limbeck.data.base import Part
    from limbeck.signals.scores import sequence_log_probabilities
    from limbeck.tasks.causal_lm import CausalLM, token_part
    from limbeck.tasks.text import tokenizer_of

    task = CausalLM()
    if isinstance(texts, Part):
        part = texts
    else:
        tokenizer = tokenizer_of(model)
        if tokenizer is None:
            raise DataError("This model brings no tokenizer: give the texts as token_part(name, rows of token ids).")
        part = token_part("texts", [tokenizer(text)["input_ids"] for text in texts])
        task._reads(tokenizer)
    found = []
    with torch.no_grad(), evaluating(model):
        for places in torch.arange(len(part)).split(batch_size):
            batch = part.batch(places).to(device_of(model))
            if batch.labels is None:
                raise DataError(f"The part {part.name!r} has no next tokens. Make it with token_part().")
            logits = task.signals(task.forward(model, task.view(batch, model, "student")))["logits"]
            found.append(-sequence_log_probabilities(logits, batch.labels, average=True).double().cpu())
    return torch.cat(found).exp()
