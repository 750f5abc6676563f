"""How close is the student to the teacher, apart from who is right: agreement of stored outputs.

Loyalty to a wrong teacher is still loyalty, so `agreement` shows each measure also where the teacher was right and
where it was wrong. After Beyond Preserved Accuracy (2021) and Distilling Romanian BERTs (2022).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.fidelity import fidelity, jensen_shannon
from limbeck.evaluation.shapes import pair, tensor, values
from limbeck.functional.core import UNLABELLED


def _loyalty(student: Tensor, teacher: Tensor, base: float) -> Tensor:
    if not base > 1:
        raise ArgumentError(f"base={base!r}: expected 2 (range 0 to 1) or math.e (natural logarithms).")
    return 1 - (jensen_shannon(student, teacher) / math.log(base)).sqrt()


def label_agreement(student_logits: Any, teacher_logits: Any) -> float:
    """Share of rows in which both name the same class. Logits or probabilities, [n, classes] each."""
    student, teacher = pair(student_logits, teacher_logits)
    return float((student.argmax(-1) == teacher.argmax(-1)).double().mean())


def probability_loyalty(student_probabilities: Any, teacher_probabilities: Any, base: float = 2.0) -> float:
    """Mean over rows of 1 - sqrt(JS(student, teacher)); probabilities [n, classes] each.

    With base 2 it goes from 0 (no class in common) to 1 (equal rows, exactly). With `math.e`, as the paper's code has
    it, the smallest value is 1 - sqrt(log 2) = 0.167. The root is the distance that SciPy calls `jensenshannon`.
    """
    student, teacher = tensor(student_probabilities).double(), tensor(teacher_probabilities).double()
    if student.shape != teacher.shape:
        raise ModelError(f"Probabilities of student {list(student.shape)} and teacher {list(teacher.shape)} "
                         "do not meet; expected [n, classes] twice.")  # fmt: skip
    if bool((student < 0).any() | (teacher < 0).any()):
        raise ArgumentError("probability_loyalty takes probabilities; for logits use agreement.")
    return float(_loyalty(student, teacher, base).mean())


def regression_loyalty(student_values: Any, teacher_values: Any) -> float:
    """Pearson correlation of the two models' values, [n] or [n, targets] (mean over targets); NaN if one is constant."""
    student, teacher = values(student_values, teacher_values, ("student values", "teacher values"))
    student, teacher = student - student.mean(0), teacher - teacher.mean(0)
    norm = student.norm(dim=0) * teacher.norm(dim=0)
    return float(((student * teacher).sum(0) / norm).clamp(-1, 1).mean())


def agreement(student_logits: Any, teacher_logits: Any, labels: Any = None, base: float = 2.0) -> dict[str, float]:
    """Agreement of two classifiers; logits [n, classes] each, labels [n] with -100 for unlabelled, or None.

    What `fidelity` gives, and `probability_loyalty`; with labels this too has `_teacher_right` and `_teacher_wrong` behind
    its name, over the labelled rows of that kind; a kind without rows is left out.
    Raises ModelError when the shapes do not meet or outputs are NaN.
    """
    result = fidelity(student_logits, teacher_logits, labels)
    student, teacher = pair(student_logits, teacher_logits)
    loyal = _loyalty(student.softmax(-1), teacher.softmax(-1), base)
    result["probability_loyalty"] = float(loyal.mean())
    if labels is not None:
        truth, named = tensor(labels).reshape(-1), teacher.argmax(-1)
        labelled, right = truth != UNLABELLED, truth == named
        for kind, chosen in (("teacher_right", labelled & right), ("teacher_wrong", labelled & ~right)):
            if bool(chosen.any()):
                result[f"probability_loyalty_{kind}"] = float(loyal[chosen].mean())
    return result


def confusion(student_predictions: Any, teacher_predictions: Any, classes: int) -> Tensor:
    """How often the student says one class where the teacher says another: [classes, classes] int64.

    Rows are the student's classes, columns the teacher's; predictions are class numbers, [n] each.
    """
    student, teacher = tensor(student_predictions).long().reshape(-1), tensor(teacher_predictions).long().reshape(-1)
    if student.shape != teacher.shape:
        raise ArgumentError(f"{len(student)} predictions of the student and {len(teacher)} of the teacher; "
                            "expected as many of each.")  # fmt: skip
    both = torch.cat([student, teacher])
    if both.numel() and (int(both.min()) < 0 or int(both.max()) >= classes):
        raise ArgumentError(f"Predictions go from {int(both.min())} to {int(both.max())}; "
                            f"classes={classes} expects 0 to {classes - 1}.")  # fmt: skip
    return torch.bincount(student * classes + teacher, minlength=classes * classes).reshape(classes, classes)
