"""Two masked language models as teachers of one student: is it more loyal to both together than a student of either?"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from _common import score, trained
from torch import nn

from limbeck._optional import need
from limbeck.data import load_data
from limbeck.data.base import Batch
from limbeck.evaluation.loyalty import agreement
from limbeck.evaluation.run import predict
from limbeck.proving import paired
from limbeck.signals.step import Step
from limbeck.students.bert import bert_config
from limbeck.students.build import text_encoder
from limbeck.students.declare import seeded
from limbeck.tasks import resolve
from limbeck.training.masked_words import Masking

CLAIM = (
    "On TREC questions, an encoder of 2 layers that learned words from the mean of two masked language models of 4 layers is "
    "more loyal to the ensemble of both, tuned for the task (probability loyalty), than one that learned from either (mean of "
    "3 seeds)."
)
SEEDS = range(3)
NOTE = (
    "Teachers: BERTs of 4 layers, 96 wide, with 2,048 pieces of words, trained for 1500 updates of batch 64 on the questions "
    "of the training part from beginnings of their own, and then for 300 on their labels. Students: 600 updates on the same "
    "questions by the triple loss, from every second layer of the teacher (of the first, where there are two), then 300 on the "
    "labels. Compared too: the labels alone from fresh weights. Nothing is tuned. Teachers of WikiText-2 had learned little "
    "more than how often words are after 1200 updates (5.9 nats of a vocabulary of 4,096), and their students less than fresh "
    "ones; that is why the texts are the task's."
)
WIDTH, HEADS, LENGTH, WORDS, BATCH, STEPS = 96, 4, 32, 2048, 64, 1500
TUNE: dict[str, Any] = {"batch_size": 32, "learning_rate": 5e-4, "evaluate_every": 100}


@functools.cache
def texts() -> list[str]:
    """The questions of the training part."""
    return list(load_data("trec", seed=0).train.texts)


@functools.cache
def tokenizer() -> Any:
    """Pieces of words, learned from these texts."""
    tokenizers, transformers = need("tokenizers", "language"), need("transformers", "language")
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = tokenizers.BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(texts(), vocab_size=WORDS, special_tokens=marks, show_progress=False)
    return transformers.BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=LENGTH)


@functools.cache
def teacher(number: int) -> nn.Module:
    """A masked language model, trained by what BERT's tokens of 15 % say."""
    with seeded(number):
        config = bert_config(tokenizer(), 4, WIDTH, HEADS, 2 * WIDTH, LENGTH, 0.1)
        module = need("transformers", "language").BertForMaskedLM(config)
    module.tokenizer = tokenizer()
    masking = Masking(module, 0.15)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS, pct_start=0.1)
    draw = torch.Generator().manual_seed(number)
    for step in range(STEPS):
        chosen = torch.randint(len(texts()), (BATCH,), generator=draw)
        words = masking.of(Batch([texts()[i] for i in chosen], chosen), Step(None, seed=1000 * number + step))
        logits = module(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).logits
        loss = nn.functional.cross_entropy(logits[words["left_out"]], words["labels"][words["left_out"]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"  teacher {number}: {float(loss.detach()):.2f} nats a word left out", flush=True)
    return module.eval()


def encoder(layers: int, seed: int) -> nn.Module:
    with seeded(seed):
        return text_encoder(6, tokenizer(), layers, WIDTH, heads=HEADS, ffn=2 * WIDTH, max_length=LENGTH)


@functools.cache
def tuned(number: int) -> nn.Module:
    """A teacher with a classifier on top, trained on TREC."""
    module: Any = encoder(4, number)
    given: Any = teacher(number)
    module.bert.load_state_dict(given.bert.state_dict(), strict=False)
    return trained("alone", seed=number, data=load_data("trec", seed=0), student=module, steps=300, **TUNE).student


@functools.cache
def ensemble() -> torch.Tensor:
    """The mean of both tuned teachers' probabilities on the test part, as logits."""
    data = load_data("trec", seed=0)
    task = resolve(None, data)
    both = [predict(tuned(number), data.parts["test"], task).softmax(-1) for number in (0, 1)]
    return (sum(both) / 2).log()


def measure(seed: int) -> dict[str, float]:
    data = load_data("trec", seed=0)
    found: dict[str, float] = {}
    ways: dict[str, list[int]] = {"both": [0, 1], "first": [0], "second": [1], "alone": []}
    for name, numbers in ways.items():
        given: dict[str, Any] = {"seed": seed, "data": data, "student": encoder(2, 100 + seed), **TUNE}
        if numbers:
            models = [copy.deepcopy(teacher(number)) for number in numbers]
            run = trained("romanian_bert", teachers=models, before=2 / 3, steps=900, **given)
        else:
            run = trained("alone", steps=300, **given)
        logits = predict(run.student, data.parts["test"], resolve(None, data))
        told = agreement(logits, ensemble())
        found |= {name: 100 * told["probability_loyalty"], f"{name}_label": 100 * told["label_agreement"],
                  f"{name}_accuracy": score(run)}  # fmt: skip
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gaps = {name: paired(rows, "both", name) for name in ("first", "second", "alone")}
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    told = ", ".join(f"{gap:+.2f} ± {error:.2f} from {name}" for name, (gap, error) in gaps.items())
    right = ", ".join(f"{name} {mean[f'{name}_accuracy']:.1f}" for name in ("both", "first", "second", "alone"))
    return all(gaps[name][0] > 2 * gaps[name][1] for name in ("first", "second")), (
        f"Loyalty {mean['both']:.1f} %: {told}. Accuracy in percent: {right}."
    )
