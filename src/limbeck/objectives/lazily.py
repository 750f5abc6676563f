"""Terms over lazy logits: one walk for all that compare the same pair, whole logits for none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.objectives.formula import Formula
from limbeck.signals.lazy import Lazy, walk
from limbeck.signals.step import Step

Weighed = tuple[str, Formula, "float | Tensor", "float | Tensor"]


def evaluate_lazily(weighed: list[Weighed], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """The part of the loss that stands on lazy logits, and the value of each term, both divided by the step's counts."""
    total: Tensor | None = None
    logs: dict[str, Tensor] = {}
    for group in _groups(weighed):
        loss, values = _walk_group(group, step)
        total = loss if total is None else total + loss
        logs.update(values)
    assert total is not None
    return total, logs


def _groups(weighed: list[Weighed]) -> list[list[Weighed]]:
    """Terms of one student signal and the same rows walk together; a term without a teacher goes with any."""
    groups: dict[Any, list[Weighed]] = {}
    for item in weighed:
        term = item[1]
        own = type(term).values is not Formula.values or type(term).arguments is not Formula.arguments
        if own or term.per != "item" or term.projection or term.transform is not None:
            raise SignalError(
                f"{term.name!r} needs whole logits (a relation, a projector, a transform, or values of its own), and the "
                "logits here are lazy. Take hidden states instead, or a task that gives whole logits."
            )
        groups.setdefault((term.student_ref, term.group, term.teacher_ref), []).append(item)
    for key in list(groups):
        partner = next((other for other in groups if other[:2] == key[:2] and other[2] is not None), None)
        if key[2] is None and partner is not None:
            groups[partner] += groups.pop(key)
    return list(groups.values())


def _walk_group(group: list[Weighed], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    first = next((term for _, term, _, _ in group if term.teacher_ref is not None), group[0][1])
    assert first.student_ref is not None
    student: Lazy = step.signal(first.student_ref)
    teacher = None if first.teacher_ref is None else step.signal(first.teacher_ref)
    labels = step.batch.labels if any(term.declaration.labels for _, term, _, _ in group) else None
    kind = "sample" if student.ndim == 2 else "token"
    mask, _ = step.population(kind, False, first.group)
    exact = torch.float64 if student.dtype == torch.float64 else torch.float32
    factors, counts, penalties = [], [], []
    for _, term, factor, penalty in group:
        counts.append(step.population(kind, term.labelled, term.group)[1])
        factors.append(torch.as_tensor(factor, dtype=exact, device=student.device))
        if isinstance(penalty, Tensor) or penalty:
            penalties.append(penalty * step.share)
    if not all(counts):
        counts = [count or (float(student.shape[:-1].numel()) if mask is None else 1.0) for count in counts]
    divided = torch.stack(factors) / torch.tensor(counts, dtype=exact, device=student.device)
    terms = [term.token_term() for _, term, _, _ in group]
    total, values = walk(
        student, teacher, labels, None if mask is None else mask.expand(student.shape[:-1]), terms, divided
    )
    for penalty in penalties:
        total = total + penalty
    return total, {name: value / count for (name, *_), value, count in zip(group, values, counts, strict=True)}
