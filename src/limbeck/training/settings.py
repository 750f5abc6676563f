"""How a stage is trained: everything that is not the recipe's business."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from limbeck.errors import ArgumentError, nearest

SCHEDULES = ("cosine", "linear", "constant", "step")
OPTIMIZERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True)
class Settings:
    """Settings of a training stage.

    Length: one of `epochs`, `steps` (optimizer steps; with 0 the student stays as it begins), `samples`, `tokens`.
    `batch_size`: samples of one optimizer step over all processes and micro-batches, or "all"; `accumulate` splits it
    into that many micro-batches, with the same result. `warmup`: the part of the length with a rising rate.
    `schedule`: "cosine", "linear", "constant", or "step" (times `drop` at each progress of `drops`).
    `precision`: of the matrix products of students and teachers (autocast): "no", "bf16" or "fp16"; objectives are computed
    in float32. `checkpointing`: keep no activations inside the layers of Transformers models, and run them twice.
    `shard`: over several processes, keep a piece of every weight, gradient and optimizer state on each (FSDP2).
    `ema`: decay of an average of the student, which is then what is evaluated and kept.
    `best`: the score that chooses the kept weights ("accuracy", "mse", ...), "last" for the last ones, None for the
    task's own. `evaluate_every` and `checkpoint_every` count optimizer steps; by default an epoch, and at least 1/20 of
    the length. `patience`: evaluations without a better score before the stage ends.
    """

    epochs: float | None = None
    steps: int | None = None
    samples: int | None = None
    tokens: int | None = None
    batch_size: int | str = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.05
    drops: tuple[float, ...] = (0.625, 0.75, 0.875)
    drop: float = 0.1
    clip: float | None = None
    precision: str = "no"
    checkpointing: bool = False
    shard: bool = False
    ema: float | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    best: str | None = None
    patience: int | None = None
    seed: int = 0
    workers: int = 0
    log_every: int = 10

    def __post_init__(self) -> None:
        lengths = {name: getattr(self, name) for name in ("epochs", "steps", "samples", "tokens")}
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) > 1:
            raise ArgumentError(f"The length of a stage is given once; this gives {given}. Choose one.")
        for name, value in given.items():
            if not _is_number(value) or (not 0 < value < math.inf and (name, value) != ("steps", 0)):
                raise ArgumentError(f"{name}={value!r}: expected a positive number.")
        for name, low, high in (("learning_rate", 0, math.inf), ("weight_decay", 0, math.inf), ("warmup", 0, 1),
                                ("momentum", 0, 1), ("drop", 0, 1)):  # fmt: skip
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                limits = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
                raise ArgumentError(f"{name}={value!r}: expected a number {limits}.")
        whole = [("accumulate", 1), ("log_every", 1), ("seed", 0), ("workers", 0)]
        whole += [("steps", 0)] if self.steps is not None else []
        counts = ("samples", "tokens", "patience", "evaluate_every", "checkpoint_every")
        whole += [(name, 1) for name in counts if getattr(self, name) is not None]
        for name, least in whole:
            if not _is_whole(getattr(self, name), least):
                raise ArgumentError(f"{name}={getattr(self, name)!r}: expected a whole number of {least} or more.")
        if self.batch_size != "all" and not _is_whole(self.batch_size, 1):
            raise ArgumentError(f"batch_size={self.batch_size!r}: expected a whole number of 1 or more, or 'all'.")
        if self.batch_size != "all" and self.accumulate > int(self.batch_size):
            raise ArgumentError(f"accumulate={self.accumulate} splits a batch of {self.batch_size}: lower it.")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", ("no", "bf16", "fp16")),
        ):
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name}={getattr(self, name)!r}.{nearest(getattr(self, name), choices)}")
        if not isinstance(self.drops, list | tuple) or not all(_is_number(at) and 0 <= at <= 1 for at in self.drops):
            raise ArgumentError(f"drops={self.drops!r}: expected numbers from 0 to 1, such as [0.5, 0.75].")
        for name in ("ema", "clip"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not value > 0):
                raise ArgumentError(f"{name}={value!r}: expected a positive number, or none.")
        for name in ("checkpointing", "shard"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name}={getattr(self, name)!r}: expected true or false.")
        if self.ema is not None and self.ema >= 1:
            raise ArgumentError(f"ema={self.ema!r}: expected a decay below 1, such as 0.999.")

    def with_(self, **changes: Any) -> Settings:
        """The same settings with changes; a new length replaces the old one. Unknown names get the nearest one."""
        known = {field.name for field in fields(self)}
        for name in changes:
            if name not in known:
                raise ArgumentError(f"There is no setting {name!r}.{nearest(name, known)}")
        if any(changes.get(name) is not None for name in ("epochs", "steps", "samples", "tokens")):
            changes = {**dict.fromkeys(("epochs", "steps", "samples", "tokens")), **changes}
        return replace(self, **changes)

    def portion(self, share: float, epochs: bool = False) -> dict[str, Any]:
        """The length of a stage that takes a share of this one, as changes for `with_`.

        Epochs stay as they are, for a stage that has its share of the samples; with `epochs` they are shared too.
        """
        if not 0 < share <= 1:
            raise ArgumentError(f"share={share!r}: expected a part of the length, above 0 and at most 1.")
        given = {name: getattr(self, name) for name in ("steps", "samples", "tokens")}
        found = {name: max(min(1, value), round(share * value)) for name, value in given.items() if value is not None}
        return {**found, "epochs": share * self.epochs} if epochs and self.epochs is not None else found

    def length(self, steps_per_epoch: int | None) -> int | None:
        """The steps of a stage; None where its end is known by samples or tokens alone. Raises ArgumentError."""
        if self.steps is not None:
            return int(self.steps)
        if self.epochs is not None:
            if steps_per_epoch is None:
                raise ArgumentError("This source has no epochs (a stream): say steps=, samples= or tokens= instead.")
            return max(1, math.ceil(self.epochs * steps_per_epoch))
        if self.samples is None and self.tokens is None:
            raise ArgumentError("The stage has no length: say epochs=, steps=, samples= or tokens=.")
        return None

    def rate(self, progress: float) -> float:
        """The factor of the learning rate at a progress from 0 to 1."""
        if self.warmup and progress < self.warmup:
            return max(progress, 1e-3 * self.warmup) / self.warmup
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return self.drop ** sum(progress >= at for at in self.drops)
        rest = min((progress - self.warmup) / max(1 - self.warmup, 1e-9), 1.0)
        return 1 - rest if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * rest))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def setting_names() -> set[str]:
    return {field.name for field in fields(Settings)}
