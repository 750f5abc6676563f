"""The bench of the preference proofs: symbols of a known random chain, of which some are liked better.

Answers of eight symbols follow a prompt of two in a Markov chain of the second order. Of two answers to a prompt the one
with more vowels (four of the symbols) is preferred. What a model has learnt of that is measured on answers that it writes
itself: `reward`, the share of vowels, and `sense`, how likely the chain finds them, without which a reward can be hacked.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from _language import Oracle, trained
from torch import Tensor, nn

from limbeck import objectives as o
from limbeck.data.base import Data
from limbeck.data.generate import Sampling
from limbeck.data.generate_models import sampler_of
from limbeck.data.language_parts import PairPart, TokenRows, prompts
from limbeck.data.language_tokens import Document
from limbeck.students.declare import seeded
from limbeck.tasks import resolve
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.settings import Settings

ORACLE = Oracle(symbols=15)
VOWELS, END, LENGTH = (1, 5, 9, 13), 15, 8
WORST = math.log(1e-4)  # what a move counts that the chain never makes
TASK = resolve("causal_lm")


def decoder(layers: int, width: int, seed: int = 0) -> nn.Module:
    """A small Llama over the symbols and the end of an answer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=16, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32, bos_token_id=None,
                         eos_token_id=END, pad_token_id=0)  # fmt: skip
    with seeded(seed):
        return LlamaForCausalLM(config)


def continued(heads: Tensor, seed: int) -> Tensor:
    """Answers of the chain to prompts [number, 2], [number, 8]."""
    draw, rows = torch.Generator().manual_seed(seed), heads
    for _ in range(LENGTH):
        following = torch.multinomial(ORACLE.table[rows[:, -2], rows[:, -1]], 1, generator=draw)
        rows = torch.cat([rows, following], 1)
    return rows[:, 2:]


def vowels(answers: Tensor) -> Tensor:
    return torch.isin(answers, torch.tensor(VOWELS)).sum(-1)


def pairs(name: str, number: int, seed: int, first: int = 0) -> PairPart:
    """Pairs of answers to prompts of the chain's own; where both have as many vowels another pair is drawn."""
    heads = ORACLE.sample(4 * number, 3, seed)[:, 1:]
    one, other = continued(heads, seed + 1), continued(heads, seed + 2)
    kept = (vowels(one) != vowels(other)).nonzero()[:number, 0]
    heads, one, other = heads[kept], one[kept], other[kept]
    better = (vowels(one) > vowels(other))[:, None]
    documents = [
        Document.of([*head, *answer, END], 2, prompt=2)
        for head, good, bad in zip(heads.tolist(), one.where(better, other).tolist(), other.where(better, one).tolist())
        for answer in (good, bad)
    ]
    ids = torch.arange(2 * first, 2 * (first + number))
    return PairPart(TokenRows(name, documents, [i // 2 for i in range(2 * number)], ids=ids, padding=0))


@functools.cache
def preferences(number: int, seed: int = 0) -> Data:
    parts = {"train": pairs("train", number, 100 * seed), "test": pairs("test", 200, 100 * seed + 50, number)}
    return Data("vowels", "tokens", parts, "none")  # type: ignore[arg-type]


def everything(data: Data) -> Data:
    """The same answers without a preference: what a model is taught before it is aligned."""
    train = data.train
    assert isinstance(train, PairPart)
    return Data("symbols", "tokens", {"train": train.rows, "test": data.parts["test"]}, "none")


def answers_of(model: nn.Module, seed: int = 0, number: int = 1000) -> tuple[Tensor, list[Tensor]]:
    """Prompts of the chain [number, 2], and what the model writes after each, without the end."""
    asked = prompts(pairs("asked", number, 7), 2 * torch.arange(number))
    draw = torch.Generator().manual_seed(seed)
    answers = sampler_of(model, TASK, (END,)).generate(asked, Sampling(LENGTH + 4), draw)
    return asked.inputs["input_ids"], [row[row != END] for row in answers.tokens]


def judged(model: nn.Module, seed: int = 0) -> tuple[float, float]:
    """Of answers that the model writes: the share of vowels in percent, and the chain's log-probability of a symbol."""
    heads, symbols = answers_of(model, seed)
    if not sum(len(row) for row in symbols):
        return 0.0, WORST  # a model that says nothing
    share = sum(int(vowels(row)) for row in symbols) / sum(len(row) for row in symbols)
    sense = []
    for head, row in zip(heads, symbols):
        text = torch.cat([head, row])
        sense.append(ORACLE.table[text[:-2], text[1:-1], text[2:]].log().clamp(min=WORST))
    return 100 * share, float(torch.cat(sense).mean())


def length(model: nn.Module, seed: int = 0) -> float:
    """Symbols of an answer, of which eight are right."""
    symbols = answers_of(model, seed)[1]
    return sum(len(row) for row in symbols) / len(symbols)


# models
BUDGET = {"batch_size": 64, "learning_rate": 3e-3, "clip": 1.0, "best": "last", "evaluate_every": 10_000}
UPDATES = 300  # of a student, in all its stages


def dpo(model: nn.Module, data: Data, *, seed: int = 0, reverse: bool = False, **settings: Any) -> nn.Module:
    """A copy of a model after DPO against the model itself."""
    job = Job(TASK, data, copy.deepcopy(model), None, Settings(**{**BUDGET, "seed": seed, **settings}))
    return Runner(cpu=True).run(job.stage(o.dpo(beta=0.1, reverse=reverse), roles={"reference": model})).student


@functools.cache
def teacher() -> nn.Module:
    """A model of the chain, before any preference."""
    return trained(
        "alone", seed=0, data=everything(preferences(2000)), student=decoder(2, 64), steps=600, **BUDGET
    ).student


@functools.cache
def teachers() -> tuple[nn.Module, nn.Module]:
    """The teacher, and the same after much DPO."""
    return teacher(), dpo(teacher(), preferences(2000), steps=150, learning_rate=1e-3)


def student(seed: int) -> nn.Module:
    return decoder(1, 24, seed=100 + seed)


def sft(seed: int, steps: int) -> nn.Module:
    """The student after so many steps on the chosen answers."""
    return trained("alone", seed=seed, data=preferences(2000), student=student(seed), steps=steps, **BUDGET).student


def dpo_student(seed: int) -> nn.Module:
    """The student after SFT and DPO, half of the updates each: at whichever of two rates gives more reward."""
    before, half = sft(seed, UPDATES // 2), UPDATES // 2
    found = [dpo(before, preferences(2000), seed=seed, steps=half, learning_rate=rate) for rate in (1e-3, 3e-3)]
    return max(found, key=lambda model: judged(model, seed)[0])


def compared(models: dict[str, nn.Module], seed: int) -> dict[str, float]:
    """The columns of a proof: reward and sense of each."""
    found: dict[str, float] = {}
    for name, model in models.items():
        found[name], found[f"{name}_sense"] = judged(model, seed)
    return found
