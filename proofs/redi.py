"""REDI on sums: do wrong workings of a teacher teach more than right ones alone?"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from _language import check, reason_start, reason_teacher, sampled_match, tiny_reason, trained
from torch import nn

from limbeck.data.base import Data
from limbeck.data.generate import Sampling, told
from limbeck.data.generate_models import find_ends, sampler_of
from limbeck.data.language_parts import PairPart, TokenRows, prompts
from limbeck.data.language_tokens import Document
from limbeck.proving import paired
from limbeck.signals.scores import label_log_probabilities
from limbeck.tasks import resolve

CLAIM = (
    "After SFT on a teacher's right workings, 60 updates of REDI (alpha 0.8) on right and wrong ones give more right answers "
    "than none and than 60 more of SFT; with alpha 1 at 30 times the rate both log-probabilities collapse."
)
SEEDS = range(3)
NOTE = (
    "Sums below 100, a teacher of 2 x 96 sampled at temperature 1, students of 2 x 64 that had 1,500 updates on given answers "
    "and 150 on right workings; answers drawn at temperature 1. REDI at 3e-5 and 1e-4, the better of the two counts; SFT at "
    "1e-4. right and wrong: log-probability of a token of these workings. Learnt: the two share most of their tokens here, so "
    "that what pushes wrong workings down takes from right ones too, and more at the higher rate; the collapse is as claimed."
)
BUDGET = {"batch_size": 32, "clip": 1.0, "best": "last", "evaluate_every": 10_000}


@functools.cache
def traces(number: int = 2000, each: int = 6) -> Data:
    """Of every sum for which the teacher has both: a right working and a wrong one."""
    data, teacher, task = tiny_reason(), reason_teacher(), resolve("causal_lm")
    task.load(data)  # takes the data's tokenizer
    rows: Any = data.train
    ends, asked = find_ends(rows, teacher, tokenizer=data.tokenizer), prompts(rows, torch.arange(number))
    sums, found = [told(rows, place, data.tokenizer, ends)[0] for place in range(number)], [{} for _ in range(number)]
    for again in range(each):
        draw = torch.Generator().manual_seed(again)
        answers = sampler_of(teacher, task, ends).generate(asked, Sampling(32), draw)
        for place, (tokens, text) in enumerate(zip(answers.tokens, answers.texts(data.tokenizer))):
            if bool(answers.finished[place]):
                found[place][check(sums[place], text)] = tokens
    documents = []
    for place, both in enumerate(found):
        if len(both) == 2:
            start = int(rows.prompts[place])
            head = rows.document(place)[:start]
            documents += [Document.of(torch.cat([head, both[kind]]).numpy(), start, start) for kind in (1.0, 0.0)]
    count = len(documents)
    part = PairPart(TokenRows("train", documents, [i // 2 for i in range(count)], ids=torch.arange(count), padding=0))
    return Data("traces", "tokens", {"train": part, "test": data.parts["test"]}, "none", tokenizer=data.tokenizer)


def likelihood(model: nn.Module) -> tuple[float, float]:
    """Mean log-probability of a token of right and of wrong workings, over 200 pairs."""
    batch = traces().train.batch(range(200))
    with torch.no_grad():
        values = label_log_probabilities(model(**batch.inputs).logits, batch.labels)
    kept = batch.labels != -100
    return tuple(float(values[side::2].sum() / kept[side::2].sum()) for side in (0, 1))  # type: ignore[return-value]


def measure(seed: int) -> dict[str, float]:
    def more(recipe: str, student: nn.Module, **options: Any) -> nn.Module:
        given = {"data": traces(), "student": copy.deepcopy(student), "steps": 60, **BUDGET, **options}
        return trained(recipe, seed=seed, **given).student

    sft = more("alone", reason_start(seed, steps=1500), steps=150, learning_rate=1e-3)
    models = {
        "sft": sft, "more_sft": more("alone", sft, learning_rate=1e-4),
        "redi_slow": more("redi", sft, sft_steps=0, learning_rate=3e-5),
        "redi_fast": more("redi", sft, sft_steps=0, learning_rate=1e-4),
        "symmetric": more("redi", sft, sft_steps=0, alpha=1.0, learning_rate=3e-3),
    }  # fmt: skip
    found = {name: sampled_match(model, seed) for name, model in models.items()}
    for name, model in models.items():
        found[f"{name}_right"], found[f"{name}_wrong"] = likelihood(model)
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    rows = [{**row, "redi": max(row["redi_slow"], row["redi_fast"])} for row in rows]
    none, none_error = paired(rows, "redi", "sft")
    more, more_error = paired(rows, "redi", "more_sft")
    right, _ = paired(rows, "symmetric_right", "sft_right")
    wrong, _ = paired(rows, "symmetric_wrong", "sft_wrong")
    stands = none > none_error and more > more_error and right < -0.5 and wrong < -0.5
    return stands, (
        f"REDI is {none:+.1f} ± {none_error:.1f} points from SFT and {more:+.1f} ± {more_error:.1f} from more SFT; with "
        f"alpha 1 at a high rate right workings lose {-right:.2f} nats a token and wrong ones {-wrong:.2f}."
    )
