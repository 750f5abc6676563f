"""TinyBERT: does it help a small encoder to follow its teacher's layers before its predictions, where labels are few?"""

from __future__ import annotations

import functools
from typing import Any

from _common import score, trained, valid_accuracy
from _embeddings import teacher_path
from torch import nn

from limbeck.data import load_data
from limbeck.proving import paired
from limbeck.students.build import text_encoder
from limbeck.students.declare import seeded
from limbeck.students.pretrained import read_part

CLAIM = (
    "On TREC questions of which a tenth have labels, TinyBERT's stages on the task's texts make an encoder of 2 layers, taught "
    "by one of 6 layers, more accurate than KD and than its labels alone, after as many updates (mean of 5 seeds)."
)
SEEDS = range(5)
NOTE = (
    "Teacher: a BERT of 6 layers, 96 wide, trained here on all labels from scratch; students 2 layers of the same width, 300 "
    "updates in all. KD and TinyBERT read all texts, the student alone those with labels. Each tuned on validation: "
    "temperature 1 or 4 of KD, 0.3 or 0.7 of the updates inside for TinyBERT. No general texts, no augmentation of texts, no "
    "pretrained model."
)
FEW: dict[str, Any] = {"steps": 300, "batch_size": 32, "learning_rate": 1e-3, "evaluate_every": 300}
CLASSES = 6


def encoder(layers: int, seed: int, dropout: float = 0.1, classes: int = CLASSES) -> nn.Module:
    tokenizer = read_part(str(teacher_path()), "tokenizer")
    with seeded(seed):
        return text_encoder(classes, tokenizer, layers, width=96, heads=4, ffn=192, max_length=64, dropout=dropout)


@functools.cache
def teacher() -> Any:
    """An encoder of 6 layers, trained on all labels of the training part."""
    long = {**FEW, "steps": 900, "learning_rate": 5e-4, "evaluate_every": 900}
    return trained("alone", seed=0, data=load_data("trec", seed=0), student=encoder(6, 0, dropout=0.3), **long).student


def measure(seed: int) -> dict[str, float]:
    model = teacher()
    data = load_data(load_data("trec", seed=0), labelled=0.1, seed=seed)  # the same parts, other labels
    few: dict[str, Any] = {**FEW, "seed": seed, "data": data}

    def student(recipe: str, **options: Any) -> Any:
        return trained(recipe, student=encoder(2, 1 + seed), **few, **options)

    kd = [student("kd", teacher=model, temperature=each, soft=0.7) for each in (1.0, 4.0)]
    tiny = [student("tinybert", teacher=model, before=each) for each in (0.3, 0.7)]
    best = {"tinybert": max(tiny, key=valid_accuracy), "kd": max(kd, key=valid_accuracy), "alone": student("alone")}
    return {name: score(run) for name, run in best.items()} | {"teacher": score(best["kd"], role="teacher")}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    kd, kd_error = paired(rows, "tinybert", "kd")
    alone, alone_error = paired(rows, "tinybert", "alone")
    return kd > 2 * kd_error and alone > 2 * alone_error, (
        f"TinyBERT is {kd:+.2f} ± {kd_error:.2f} points from KD and {alone:+.2f} ± {alone_error:.2f} from the student alone."
    )
