"""TGeo-KD: does the learned ratio find out where the teacher is wrong and where the label is?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from _common import BUDGET, STUDENT, score, trained, valid_accuracy
from _common import teacher as good_teacher
from torch import Tensor

from limbeck._optional import need
from limbeck.api import prepare
from limbeck.data import load_data
from limbeck.data.base import Batch, Data
from limbeck.evaluation.run import predict
from limbeck.proving import paired
from limbeck.tasks import resolve
from limbeck.teachers.base import Teacher
from limbeck.training.execute import Runner

CLAIM = (
    "On digits with a teacher made wrong on a fifth of the training images and labels made wrong on another fifth, the learned "
    "share of the teacher is lower where the teacher is wrong and higher where the label is (AUROC above 0.8 each), and the "
    "student is more accurate than with the best fixed share."
)
SEEDS = range(5)
NOTE = (
    "mlp:32, 600 steps. The teacher's logits are shifted by one class on its fifth. Fixed shares are 0.1 to 0.9, the best "
    "chosen on validation, trained on all training images; TGeo-KD holds a fifth of them out, wrong labels among them."
)
STEPS = {"steps": 600}


class Wrong(Teacher):
    """A good teacher's answers, kept; of the samples whose ids are given it takes each class for the next one."""

    stored = True

    def __init__(self, seed: int, data: Data, ids: Tensor):
        wrong = set(ids.tolist())
        self.kept: dict[int, Tensor] = {}
        for part in data.parts.values():
            logits = predict(good_teacher(seed), part, resolve("classification"))
            for i, row in zip(part.ids.tolist(), logits, strict=True):
                self.kept[i] = row.roll(1) if i in wrong else row

    def read(self, batch: Batch, taps: Sequence[str], task: Any, *, progress: float = 0.0) -> dict[str, Tensor]:
        return {"logits": torch.stack([self.kept[i] for i in batch.ids.tolist()])}

    def identity(self) -> str:
        return "wrong on a fifth"


def corrupted(seed: int) -> tuple[Data, Tensor, Tensor]:
    """Digits, the positions where the teacher will be wrong, and those where the label is."""
    data = load_data("digits", seed=seed)
    train = data.train
    assert train.labels is not None
    draw = torch.Generator().manual_seed(seed)
    teacher, label = torch.randperm(len(train), generator=draw)[: 2 * (len(train) // 5)].chunk(2)
    labels = train.labels.clone()
    labels[label] = (labels[label] + torch.randint(1, 10, (len(label),), generator=draw)) % 10
    return (
        Data("digits", "image", {**data.parts, "train": train.with_labels(labels)}, classes=data.classes),
        teacher,
        label,
    )


def auroc(values: Tensor, first: Tensor, second: Tensor) -> float:
    truth = torch.cat([torch.ones(len(first)), torch.zeros(len(second))])
    return float(need("sklearn.metrics", "tables").roc_auc_score(truth, torch.cat([values[first], values[second]])))


def measure(seed: int) -> dict[str, float]:
    data, teacher, label = corrupted(seed)
    wrong = Wrong(seed, data, data.train.ids[teacher])
    prepared = prepare("tgeo_kd", teacher=wrong, student=STUDENT, data=data, seed=seed, **{**BUDGET, **STEPS})
    job = prepared.job
    result = Runner(cpu=True).run(prepared.bound(job))
    every = data.train.batch(torch.arange(len(data.train)))
    assert every.labels is not None
    with torch.no_grad():
        target = wrong.read(every, ["logits"], job.task)["logits"]
        alpha = result.modules["ratio"](result.student(every.inputs), target, every.labels)
    clean = torch.ones(len(alpha), dtype=torch.bool)
    clean[torch.cat([teacher, label])] = False
    clean = clean.nonzero()[:, 0]
    test = data.parts["test"]
    own = job.task.scores(predict(result.student, test, job.task), test.labels, data.classes)  # type: ignore[arg-type]
    few = {"seed": seed, "data": data, "teacher": wrong, **STEPS}
    fixed = max((trained("kd", soft=share / 10, **few) for share in range(1, 10)), key=valid_accuracy)
    return {
        "tgeo_kd": 100 * own["accuracy"], "best_fixed": score(fixed),
        "auroc_teacher_wrong": auroc(-alpha, teacher, clean), "auroc_label_wrong": auroc(alpha, label, clean),
        "alpha_clean": float(alpha[clean].mean()), "alpha_teacher_wrong": float(alpha[teacher].mean()),
        "alpha_label_wrong": float(alpha[label].mean()),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "tgeo_kd", "best_fixed")
    wrong = [sum(row[name] for row in rows) / len(rows) for name in ("auroc_teacher_wrong", "auroc_label_wrong")]
    return min(wrong) > 0.8 and gap > 2 * error, (
        f"TGeo-KD is {gap:+.2f} ± {error:.2f} points from the best fixed share; its share tells a wrong teacher with AUROC "
        f"{wrong[0]:.2f} and a wrong label with {wrong[1]:.2f}."
    )
