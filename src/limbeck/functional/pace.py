"""Controllers that follow the learning: how far TAID's target has come, how often DistiLLM's student writes its own text.

Each is a frozen dataclass: settings and state. What happened gives the next one (`pace = pace.after(loss)`), so that a
checkpoint holds a plain dictionary and a resumed run goes on as the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from limbeck.errors import ArgumentError, nearest

Source = Literal["generate", "replay", "data"]
Trend = Literal["decreasing", "constant", "increasing"]


class Kept:
    """To a dictionary of numbers and back."""

    def to_dict(self) -> dict[str, Any]:
        """Settings and state, for a checkpoint."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises ArgumentError for a key that is none of this controller's."""
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for key in plain:
            if key not in known:
                raise ArgumentError(f"{cls.__name__} has no {key!r}.{nearest(key, known)}")
        return cls(**plain)


@dataclass(frozen=True)
class InterpolationPace(Kept):
    """The share of the teacher in the target of `interpolated_cross_entropy`, from `start` to `end` of the training.

    A straight line, ahead of which the share may run: by alpha sigmoid(momentum) (1 - share) a step, the momentum being
    an average of the relative fall of the loss. `adaptive=False` keeps to the line. Use `share` for a step, then call
    `after` with that step's loss, a cross-entropy (as a KL it would fall with the target's entropy too), and how much of
    the training was done before the step. Source: TAID (Shing et al., 2025).
    """

    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    beta: float = 0.99
    adaptive: bool = True
    # the state
    share: float | None = None
    momentum: float = 0.0
    previous: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1 or not 0 <= self.beta < 1 or self.alpha < 0:
            raise ArgumentError(f"{self}: expected 0 <= start <= end <= 1, 0 <= beta < 1, and alpha of 0 or more.")
        if self.share is None:
            object.__setattr__(self, "share", self.start)

    def after(self, loss: float, progress: float) -> InterpolationPace:
        """The pace of the next step. The first loss is only remembered. Raises ArgumentError where it is not finite.

        `progress`: finished steps / all steps, 0 at the first one.
        """
        if not math.isfinite(loss):
            raise ArgumentError(f"The loss at a progress of {progress:.3g} is {loss!r}, and a pace needs a finite one.")
        if self.previous is None:
            return replace(self, previous=loss)
        assert self.share is not None
        fall = (self.previous - loss) / (self.previous + 1e-15)
        momentum = self.beta * self.momentum + (1 - self.beta) * fall
        line = self.start + (self.end - self.start) * progress
        ahead = self.share + self.alpha * _sigmoid(momentum) * (1 - self.share)
        share = min(self.end, max(line, ahead)) if self.adaptive else line
        return replace(self, share=share, momentum=momentum, previous=loss)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True)
class GenerationThreshold(Kept):
    """How often a student is trained on its own text: more when it does worse on validation, less as training ends.

    `after` takes each validation loss; the first, from before the training, is only remembered. A loss that is higher
    than the remembered one by `tolerance` or more raises the threshold by `raise_by` (to 1 at most) and is remembered in
    its turn; any other changes nothing. Source: DistiLLM (Ko et al., 2024); TAID's copy has tolerance 0.
    """

    trend: Trend = "decreasing"
    tolerance: float = 0.1
    raise_by: float = 0.1
    capacity: int = 1000
    # the state
    threshold: float = 0.0
    previous: float | None = None

    def __post_init__(self) -> None:
        if self.trend not in get_args(Trend):
            raise ArgumentError(
                f"trend={self.trend!r}: expected one of {get_args(Trend)}.{nearest(self.trend, get_args(Trend))}"
            )
        if not 0 <= self.threshold <= 1 or self.raise_by < 0 or self.capacity < 1:
            raise ArgumentError(f"{self}: expected a threshold within 0 and 1, raise_by >= 0 and capacity >= 1.")

    def after(self, validation_loss: float) -> GenerationThreshold:
        """The threshold once this validation loss is known."""
        if self.previous is None:
            return replace(self, previous=validation_loss)
        if validation_loss < self.previous + self.tolerance:
            return self
        return replace(self, threshold=min(self.threshold + self.raise_by, 1.0), previous=validation_loss)

    def generation_probability(self, progress: float) -> float:
        """The probability of fresh generations at a progress from 0 to 1, once the replay buffer is full."""
        return self.threshold * {"decreasing": 1 - progress, "constant": 0.5, "increasing": progress}[self.trend]

    def choose(self, draw: float, progress: float, buffered: int) -> Source:
        """Where a batch comes from, by a number drawn evenly from [0, 1) and the number of answers in the replay buffer.

        "generate": new answers of the student, to be put into the buffer; "replay": a batch of the buffer; "data".
        """
        if draw >= self.threshold:
            return "data"
        fresh = draw < self.generation_probability(progress) or buffered < self.capacity
        return "generate" if fresh else "replay"
