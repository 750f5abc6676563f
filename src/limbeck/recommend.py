"""Which pipeline to begin with, from what is known of a task before any training. The rules are few, and each says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Features:
    """What the rules look at. `capacity`: the teacher's parameters over the student's; `teacher`: its score on validation."""

    kind: str
    samples: int
    labelled: int
    classes: int
    capacity: float
    teacher: float
    layers: bool  # whether layers of both are found by structure

    def plain(self) -> dict[str, Any]:
        return {"kind": self.kind, "samples": self.samples, "labelled": self.labelled, "classes": self.classes,
                "capacity": round(self.capacity, 2), "teacher": round(self.teacher, 4), "layers": self.layers}  # fmt: skip


@dataclass(frozen=True)
class Pipeline:
    """A recipe with arguments, the reasons, and how many times the run's learning rate it takes."""

    recipe: str
    arguments: Arguments = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    factor: float = 1.0


def recommend(features: Features) -> Pipeline:
    """The pipeline to try first.

    Few labels beside unlabelled samples, or a good teacher: trust it nearly alone. Two or three classes: outputs say little,
    so that layers must. A teacher many times larger: its distribution is sharper than the student's can be, so that each row
    is standardized. Else plain KD with labels beside it.
    """
    reasons = []
    share = features.labelled / max(features.samples, 1)
    if share < 0.5:
        soft = 1.0
        reasons.append(
            f"{100 * share:.0f} % of the samples have labels: the teacher says what the others are (soft=1)."
        )
    elif features.teacher < 0.8:
        soft = 0.5
        reasons.append(f"The teacher scores {features.teacher:.3f} on validation: labels count as much (soft=0.5).")
    else:
        soft = 0.9
        reasons.append("Labels are there for most samples and the teacher is good: both, the teacher more (soft=0.9).")
    if features.classes <= 3 and features.layers:
        reasons.append(f"{features.classes} classes: outputs say little, so the last layers are matched too (mi).")
        return Pipeline("distiller", {"intermediate": "mi", "soft": soft, "temperature": 2.0}, tuple(reasons))
    if features.capacity > 10 and share >= 0.5:
        reasons.append(f"The teacher is {features.capacity:.0f} times larger: rows of logits are standardized.")
        return Pipeline("logit_standardization", {}, tuple(reasons))
    return Pipeline("kd", {"soft": soft}, tuple(reasons))
