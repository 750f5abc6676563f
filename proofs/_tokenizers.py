"""The bench of proofs across tokenizers: a teacher that reads BPE, a student that reads bytes, little text of Wikipedia."""

from __future__ import annotations

import functools
import random
from typing import Any

import torch
from _language import BUDGET, LENGTH, score, tiny_teacher, trained

from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.splits import take
from limbeck.data.tokenizer import train_tokenizer

SHARE, STEPS, STUDENT = 1 / 32, 600, "decoder:1,64"
SETTING = (
    "wikitext2_small, two of its articles (28 kB) for the student; the teacher, 3 x 96 over a BPE of 512 tokens, learnt all of "
    "them. The student, 1 x 64, reads bytes: rows of 128, 600 updates of 8 rows (21 passes)."
)


@functools.cache
def both_tokenizations() -> Data:
    """Rows of 128 bytes with the teacher's tokens beside them; valid and test are of other articles, 60 rows each."""
    splits = named_language("wikitext2_small")
    texts = list(splits["train"])
    random.Random(0).shuffle(texts)
    others = [text[:6000] for text in splits["test"][:20]]
    some = {"train": texts[: round(SHARE * len(texts))], "valid": others[:10], "test": others[10:]}
    tokenizer = tiny_teacher().tokenizer
    data = load_language_data(some, train_tokenizer([], 261), teacher=tokenizer, length=LENGTH, pack=False)
    for name in ("valid", "test"):
        rows = data.parts[name]
        data.parts[name] = take(rows, torch.linspace(0, len(rows) - 1, 60).long(), name)
    return data


def bits(seed: int, recipe: str, **options: Any) -> float:
    """Bits per byte on the test part of the student that a recipe gives."""
    given = {"teacher": tiny_teacher()} if recipe != "alone" else {}
    options = {**BUDGET, "steps": STEPS, **given, **options}
    run = trained(recipe, seed=seed, data=both_tokenizations(), student=STUDENT, **options)
    return score(run, "bits_per_byte") / 100


def teacher_bits() -> float:
    """Bits per byte of the teacher on the test part, in its own tokens."""
    from limbeck.tasks.causal_lm import CausalLM

    task, data = CausalLM(), both_tokenizations()
    task.load(data)
    return task.measure(tiny_teacher(), data.parts["test"])["scores"]["bits_per_byte"]
