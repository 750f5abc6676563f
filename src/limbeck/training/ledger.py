"""The losses of the steps: kept on the device until they are written, summed over processes, checked to be finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.errors import DivergedError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.training.metrics import Metrics
    from limbeck.training.settings import Settings

Logs = dict[str, dict[str, Tensor]]  # learner -> term -> value, with "loss" for their sum


def add_logs(logs: Logs, name: str, loss: Tensor, values: dict[str, Tensor]) -> None:
    """Add a micro-batch's parts of the loss and terms."""
    terms = logs.setdefault(name, {})
    for term, value in {"loss": loss, **values}.items():
        terms[term] = terms[term] + value if term in terms else value


def check_finite(number: int, logs: Logs) -> None:
    """Raise DivergedError, naming learner, step and term, where a loss is NaN or infinite."""
    for name, terms in logs.items():
        loss = float(terms["loss"])
        if math.isfinite(loss):
            continue
        bad = [term for term, value in terms.items() if term != "loss" and not math.isfinite(float(value))]
        raise DivergedError(
            f"The loss of {name!r} became {loss} at step {number} (term: {', '.join(bad) or 'loss'}).", number
        )


class Ledger:
    """Losses on their way to the metrics of stage `index`: reading one would wait for the device, so they wait here."""

    def __init__(self, metrics: Metrics, settings: Settings, accelerator: Accelerator, index: int):
        self.metrics, self.settings, self.accelerator, self.index = metrics, settings, accelerator, index
        self.waiting: list[tuple[int, float, Logs]] = []

    def add(self, number: int, progress: float, logs: Logs) -> None:
        self.waiting.append((number, progress, logs))
        if len(self.waiting) >= self.settings.log_every:
            self.flush()

    def flush(self) -> None:
        """Write what waits; raise DivergedError where a loss is not finite."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        if self.accelerator.num_processes > 1:
            values = [value for _, _, logs in waiting for terms in logs.values() for value in terms.values()]
            summed = self.accelerator.reduce(torch.stack([v.double() for v in values]), "sum").unbind()
            replaced = iter(summed)
            waiting = [
                (number, progress, {name: {term: next(replaced) for term in terms} for name, terms in logs.items()})
                for number, progress, logs in waiting
            ]
        for number, _, logs in waiting:
            check_finite(number, logs)
        if self.accelerator.process_index:
            return
        for number, progress, logs in waiting:
            for name, terms in logs.items():
                self.metrics.add({
                    "stage": self.index, "step": number, "learner": name, "progress": round(progress, 6),
                    "rate": self.settings.learning_rate * self.settings.rate(progress),
                    "terms": {term: float(value) for term, value in terms.items()},
                })  # fmt: skip
