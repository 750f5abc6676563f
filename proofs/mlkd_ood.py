"""Does a language model notice requests that it was not made for?"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import torch
from _language import trained
from torch import nn

from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.shared import find_shared
from limbeck.data.tokenizer import train_tokenizer
from limbeck.describe import novelty_of
from limbeck.proving import paired
from limbeck.tasks import resolve

torch.set_num_threads(1)
CLAIM = (
    "On CLINC150, the perplexity of a fresh language model that learnt the known requests by mlkd_ood from a pretrained and "
    "fine-tuned one tells requests out of scope from known ones better (AUROC) than its teacher does, and than the same model "
    "trained on the requests alone (mean of 3 seeds)."
)
SEEDS = range(3)
NOTE = (
    "Decoders of 4 layers, 64 wide, 1,024 pieces of text of a tokenizer of these data. Teacher: 600 steps of WikiText-2, then "
    "300 of 6,000 known requests; students 500 steps of these, batches of 16. Known: 1,000 of the test part in scope; novel: "
    "the 1,000 out of scope. Beside them: the KL of the next tokens alone (lm_kd)."
)
MODEL = "decoder:4,64"
BUDGET: dict[str, Any] = {
    "batch_size": 16,
    "learning_rate": 2e-3,
    "clip": 1.0,
    "best": "last",
    "evaluate_every": 10_000,
}


def requests(part: str, known: bool, most: int) -> list[str]:
    frame = pd.read_parquet(find_shared("clinc150") / f"{part}.parquet")
    frame = frame[(frame.label >= 0) == known].sample(frac=1, random_state=0)
    return frame.text.tolist()[:most]


@functools.cache
def bench() -> tuple[Any, Data, Data]:
    """The tokenizer, known requests (train, test) and novel ones."""
    train = requests("train", True, 6000)
    wiki = list(named_language("wikitext2_small")["train"])
    tokenizer = train_tokenizer([*train, *wiki], 1024)

    def rows(texts: list[str], test: list[str]) -> Data:
        return load_language_data({"train": texts, "test": test}, tokenizer, length=48, valid=0.0, pack=False)

    known, novel = requests("test", True, 1000), requests("test", False, 1000)
    return tokenizer, rows(train, known), rows(novel, novel[:10])


@functools.cache
def teacher() -> nn.Module:
    tokenizer, known, _ = bench()
    wiki = load_language_data(
        {"train": list(named_language("wikitext2_small")["train"])}, tokenizer, length=128, valid=0.0
    )
    first = trained("alone", seed=0, data=wiki, student=MODEL, steps=600, **{**BUDGET, "batch_size": 8}).student
    return trained("alone", seed=0, data=known, student=first, steps=300, **{**BUDGET, "learning_rate": 5e-4}).student


def found(model: nn.Module) -> dict[str, float]:
    _, known, novel = bench()
    return novelty_of(resolve("causal_lm"), model, known.parts["test"], novel.train)


def measure(seed: int) -> dict[str, float]:
    _, known, _ = bench()
    given = {"seed": seed, "data": known, "student": MODEL, "steps": 500, **BUDGET}
    models = {
        "teacher": teacher(),
        "mlkd_ood": trained("mlkd_ood", teacher=teacher(), **given).student,
        "kl": trained("lm_kd", teacher=teacher(), kd=1.0, **given).student,
        "alone": trained("alone", **given).student,
    }
    row = {}
    for name, model in models.items():
        scores = found(model)
        row |= {
            name: 100 * scores["auroc"],
            f"{name}_aupr": 100 * scores["aupr"],
            f"{name}_far95": 100 * scores["far95"],
        }
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    taught, taught_error = paired(rows, "mlkd_ood", "teacher")
    alone, alone_error = paired(rows, "mlkd_ood", "alone")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    told = "; ".join(f"{name} {mean[name]:.1f}, {mean[f'{name}_aupr']:.1f}, {mean[f'{name}_far95']:.1f}"
                     for name in ("mlkd_ood", "teacher", "kl", "alone"))  # fmt: skip
    return taught > 2 * taught_error and alone > 2 * alone_error, (
        f"AUROC, AUPR, FAR95: {told}. AUROC {taught:+.1f} ± {taught_error:.1f} over the teacher, {alone:+.1f} ± "
        f"{alone_error:.1f} over the model alone."
    )
