"""Rows that every score starts from: logits [n, classes] in double precision, labels [n], unlabelled ones left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.functional.core import UNLABELLED


def tensor(values: Any) -> Tensor:
    """A detached CPU tensor of an array, list or tensor."""
    return torch.as_tensor(values).detach().cpu()


def columns(logits: Any) -> Tensor:
    """Logits [..., classes] in float64. One logit per item, [n] or [..., 1], becomes the two columns 0 and z.

    The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)), so a binary model with one output is scored exactly.
    Raises ModelError where a row has no softmax: NaN, +inf, or nothing but -inf.
    """
    logits = tensor(logits).double()
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ArgumentError(
            f"logits have shape {list(logits.shape)}; expected [n, classes], or [n] for one logit each."
        )
    if logits.ndim == 1:
        logits = logits.unsqueeze(-1)
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    top = logits.amax(-1)  # NaN where any entry is
    if not bool(top.isfinite().all()):
        raise ModelError(
            f"{int((~top.isfinite()).sum())} of {top.numel()} rows of logits have no softmax "
            "(NaN, +inf, or only -inf). Look at the model's inputs and at its training log."
        )
    return logits


def pair(student: Any, teacher: Any) -> tuple[Tensor, Tensor]:
    """Logits of both [..., classes] as [n, classes] float64. Raises ModelError where they do not meet."""
    one, two = columns(student), columns(teacher)
    if one.shape != two.shape:
        raise ModelError(
            f"The student's outputs are {list(one.shape)} and the teacher's {list(two.shape)}; "
            "to be compared they need the same samples and the same classes."
        )
    return one.reshape(-1, one.shape[-1]), two.reshape(-1, two.shape[-1])


def rows(logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Logits [..., classes] and labels [...] as [n, classes] float64 and [n] int64, without items labelled -100.

    Raises DataError when the shapes do not meet, no item is labelled, or a label is no class of the logits.
    """
    labels = tensor(labels)
    logits = tensor(logits)
    one_each = logits.shape == labels.shape
    wide = columns(logits.unsqueeze(-1) if one_each else logits)
    if wide.shape[:-1] != labels.shape:
        raise DataError(
            f"logits have shape {list(logits.shape)} and labels {list(labels.shape)}; expected [n, classes] and [n]."
        )
    if labels.is_floating_point():
        raise DataError("Labels of classes must be whole numbers (int64); for values use regression_scores.")
    wide, labels = wide.reshape(-1, wide.shape[-1]), labels.reshape(-1).long()
    keep = labels != UNLABELLED
    wide, labels = wide[keep], labels[keep]
    if not len(labels):
        raise DataError("No sample has a label (all are -100), so there is nothing to score.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= wide.shape[-1]:
        raise DataError(
            f"Labels go from {low} to {high}, but the model has {wide.shape[-1]} classes; "
            f"expected 0 to {wide.shape[-1] - 1}, or {UNLABELLED} for unlabelled."
        )
    return wide, labels


def values(first: Any, second: Any, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Two sets of values [n] or [n, targets] as [n, targets] float64; [n] meets [n, 1]. Raises DataError otherwise."""
    one, two = tensor(first).double(), tensor(second).double()
    given = list(one.shape), list(two.shape)
    one, two = (value.unsqueeze(-1) if value.ndim == 1 else value for value in (one, two))
    if one.shape != two.shape or one.ndim != 2:
        raise DataError(f"{names[0]} have shape {given[0]} and {names[1]} {given[1]}; expected [n] or [n, targets].")
    return one, two
