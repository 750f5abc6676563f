"""Is the student like its teacher, or only as good? Closeness of the two, and agreement where the teacher errs.

Accuracy rises by distillation without the student coming nearer to what the teacher would say (On the Generalization vs
Fidelity Paradox in Knowledge Distillation, 2025). Agreement alone hides that: two accurate models agree because both are
right. So it is given where the teacher is right and where it is wrong, and for what both get right the second choice is
compared too: a student that is right for the teacher's reasons also hesitates where its teacher hesitates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.evaluation.shapes import pair, tensor
from limbeck.functional.core import UNLABELLED

CLOSENESS = ("kl_to_teacher", "js_to_teacher", "tv_to_teacher")
CHUNK = 1024  # rows at a time, so that a whole part of many classes needs no copies of itself


class Fidelity:
    """What is summed over rows (samples or tokens). Feed it blocks (`add`), then ask for `result`.

    `name`: what the share of equal top classes is called: "label_agreement" of samples, "top1_agreement" of tokens.
    """

    def __init__(self, name: str = "label_agreement"):
        self.name, self.rows = name, 0
        self.closeness = dict.fromkeys(CLOSENESS, 0.0)
        self.shares: dict[str, list[int]] = {}  # what happened, out of how many

    @torch.no_grad()
    def add(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Rows of log-probabilities [n, classes] of both, and the right classes [n] (-100: not known)."""
        self.rows += len(student)
        p, q = teacher.exp(), student.exp()
        gap = (p * (teacher - student)).where(p > 0, 0)
        for key, values in zip(CLOSENESS, (gap.sum(-1), jensen_shannon(q, p), 0.5 * (p - q).abs().sum(-1))):
            self.closeness[key] += float(values.double().sum())
        ours, theirs = student.argmax(-1), teacher.argmax(-1)
        same = ours == theirs
        self._count(self.name, same)
        if labels is None:
            return
        known = labels != UNLABELLED
        right, teacher_right = known & (ours == labels), known & (theirs == labels)
        teacher_wrong = known & ~teacher_right
        self._count(f"{self.name}_teacher_right", same[teacher_right])
        self._count(f"{self.name}_teacher_wrong", same[teacher_wrong])
        self._count("accuracy_teacher_wrong", right[teacher_wrong])
        both = right & teacher_right
        if student.shape[-1] > 2:  # of two classes the second is the other one
            self._count("second_choice_agreement", second(student[both]) == second(teacher[both]))

    def _count(self, name: str, happened: Tensor) -> None:
        found = self.shares.setdefault(name, [0, 0])
        found[0] += int(happened.sum())
        found[1] += len(happened)

    def result(self) -> dict[str, float]:
        """Means over all rows, shares over the rows that they are about; a share of no rows is left out."""
        if not self.rows:
            return {}
        shares = {name: happened / n for name, (happened, n) in self.shares.items() if n}
        return {name: total / self.rows for name, total in self.closeness.items()} | shares


def fidelity(student: Any, teacher: Any, labels: Any = None) -> dict[str, float]:
    """How close a student is to its teacher; logits [..., classes] each, labels [...] with -100 for unknown, or None.

    Means over all rows, in nats where they are in a unit: `kl_to_teacher` KL(p || q) of teacher p and student q,
    `js_to_teacher` the Jensen-Shannon divergence with equal weights (0 to log 2), `tv_to_teacher` the total variation (0 to
    1), `label_agreement` the share with the same likeliest class. With labels:

    - `label_agreement_teacher_right`, `label_agreement_teacher_wrong`: the same where the teacher is right or wrong. The
      first is the student's accuracy there, the second says how much of the teacher's errors was copied.
    - `accuracy_teacher_wrong`: the student's accuracy where the teacher is wrong.
    - `second_choice_agreement`: of what both get right, the share with the same second choice (for 3 classes or more).

    A share of no rows is left out. Raises ModelError where the shapes do not meet, ArgumentError for labels that do not fit.
    """
    ours, theirs = pair(student, teacher)
    truth = None if labels is None else tensor(labels).reshape(-1)
    if truth is not None and len(truth) != len(ours):
        raise ArgumentError(f"{len(truth)} labels for {len(ours)} rows of logits; expected one for each.")
    found = Fidelity()
    for rows in torch.arange(len(ours)).split(CHUNK):
        found.add(ours[rows].log_softmax(-1), theirs[rows].log_softmax(-1), None if truth is None else truth[rows])
    return found.result()


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """JS divergence of rows of probabilities [n, classes] -> [n], in nats.

    With s = p + q and d = (p - q) / s it is the sum of s/4 [(1 + d) log(1 + d) + (1 - d) log(1 - d)]: every entry is
    exactly 0 where p = q. A root that follows would turn a rounding of 1e-17 into 3e-9, or into NaN below zero.
    """
    total = student + teacher
    ratio = torch.where(total > 0, (student - teacher) / total, 0)
    entries = torch.special.xlog1py(1 + ratio, ratio) + torch.special.xlog1py(1 - ratio, -ratio)
    return (total / 4 * entries).sum(-1).clamp(min=0)


def second(rows: Tensor) -> Tensor:
    """The second likeliest class of every row, [n, classes] -> [n]."""
    return rows.topk(2, -1).indices[:, 1]
