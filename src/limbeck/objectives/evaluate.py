"""From terms to the loss of a micro-batch: the one place where values are masked, divided and weighed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.signals.step import Step

if TYPE_CHECKING:
    from limbeck.objectives.algebra import Objective, Term


def evaluate(objective: Objective, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """See `Objective.evaluate`. Signals are compared in float32 (or float64) outside autocast."""
    weighted = objective.weighted()
    names = getattr(objective, "names", [term.name for _, term in weighted])
    parts: list[Tensor] = []
    logs: dict[str, Tensor] = {}
    with _in_full_precision(step):
        lazy: list[Any] = []
        for name, (weight, term) in zip(names, weighted, strict=True):
            if weight.is_zero:
                continue
            term.check(step)
            factor, penalty = weight.forward(step.progress)
            if term.is_lazy(step):
                lazy.append((name, term, factor, penalty))
                continue
            value = _value(term, step)
            logs[name] = value.detach()
            parts.append(factor * value)
            if isinstance(penalty, Tensor) or penalty:
                parts.append(torch.as_tensor(penalty * step.share, device=value.device))
        if lazy:
            from limbeck.objectives.lazily import evaluate_lazily

            loss, values = evaluate_lazily(lazy, step)
            parts.append(loss)
            logs.update(values)
    if not parts:
        raise SignalError("The objective has no term: every weight is 0.")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total, logs


def _value(term: Term, step: Step) -> Tensor:
    values = term.values(step)
    if term.per == "batch":
        # every process has the whole batch (gathered); its value counts once over all of them
        return values / step.processes
    if values.ndim not in (1, 2):
        raise SignalError(
            f"{term.name!r} gave values of shape {list(values.shape)}. A term per item gives [batch] or [batch, tokens]."
        )
    mask, count = term.population(step, values)
    if count == 0:
        if values.ndim == 2 and not term.labelled and mask is None:
            return values.mean()  # outside the engine, without a mask: every token counts
        return values.sum() * 0.0 if mask is None else values.where(mask != 0, 0).sum() * 0.0
    if mask is not None:
        values = values.where(mask != 0, 0) * mask
    elif count == values.numel():
        return values.mean()
    return values.sum() / count


def _in_full_precision(step: Step) -> contextlib.AbstractContextManager[object]:
    kind = next((value.device.type for value in step.signals.values() if isinstance(value, Tensor)), "cpu")
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
