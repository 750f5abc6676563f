"""Learning from a stored teacher is learning from the live one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from _common import BUDGET, STUDENT, teacher

import limbeck as lb
from limbeck.tasks import resolve
from limbeck.teachers.base import as_teacher

CLAIM = (
    "A student that learns from stored teacher logits (float32), also over all 25 views of an augmentation, ends with the very "
    "bits of the student that learns from the live teacher."
)
SEEDS = range(3)
NOTE = "Digits; KD on 100 labels and the unlabelled rest, 300 steps, without augmentation and with shifts by up to 2 pixels."


def differing(seed: int, augment: str | None, folder: Path) -> float:
    """The number of the student's weights that differ between stored and live teacher."""
    data = lb.load_data("digits", seed=seed, labelled=100, augment=augment)
    live = as_teacher(teacher(seed))
    store = lb.store_signals(
        live, data, folder, task=resolve(None, data), dtype="float32", views="none" if augment is None else "all"
    )
    students = [
        lb.distill("kd", teacher=one, student=STUDENT, data=data, seed=seed, measure=False, progress=False,
                   **{**BUDGET, "steps": 300}).student
        for one in (live, as_teacher(store))
    ]  # fmt: skip
    pairs = zip(*(student.parameters() for student in students), strict=True)
    return float(sum((a != b).sum() for a, b in pairs))


def measure(seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return {
            "differing_plain": differing(seed, None, Path(folder) / "plain"),
            "differing_views": differing(seed, "shift:2", Path(folder) / "views"),
            "weights": float(sum(p.numel() for p in lb.distill(
                "alone", student=STUDENT, data="digits", steps=1, measure=False, progress=False).student.parameters())),
        }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    worst = max(max(row["differing_plain"], row["differing_views"]) for row in rows)
    return worst == 0, f"At most {worst:.0f} of {rows[0]['weights']:.0f} weights differ over {len(rows)} seeds."


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(judge([measure(0)]))
