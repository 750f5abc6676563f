"""On Teacher Hacking in LM Distillation (2025) on oracle-markov: fixed answers of a teacher, and fresh ones."""

from __future__ import annotations

import functools
from typing import Any

import torch
from _language import Oracle, trained
from torch import Tensor, nn

from limbeck.data.base import Batch
from limbeck.data.generate import Sampling
from limbeck.data.generate_models import sampler_of
from limbeck.tasks import resolve

CLAIM = (
    "A student that learns by KL for 40 epochs from 100 fixed strings of an imperfect teacher is nearest to the oracle before "
    "the end, and the monitor raises an alarm; with fresh strings for as many updates neither is so: in 4 of 5 seeds at least."
)
SEEDS = range(5)
NOTE = (
    "The oracle is a random Markov chain of order 2 over 8 symbols, so that the KLs of next tokens are exact; the teacher, 1 x "
    "64, is fitted to 200 of its strings until it overfits them. Counter-case (best_*): a teacher kept where it was best on "
    "held-out strings, and 100 fixed strings of it. Distances are nats per token on 64 held-out strings of the oracle: _low is "
    "the lowest to the oracle, _end the last, _proxy the last to the teacher; _turned is the step of the alarm, 0 for none."
)
LENGTH, STRINGS, UPDATES = 32, 100, 400
BUDGET = {"steps": UPDATES, "batch_size": 10, "learning_rate": 3e-3, "best": "last", "evaluate_every": UPDATES}


class Truth(nn.Module):
    """The oracle as a model: its exact log-probabilities for logits."""

    def __init__(self, oracle: Oracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return self.oracle.log_probabilities(input_ids).float()


def measure(seed: int) -> dict[str, float]:
    oracle = Oracle(symbols=8, seed=seed)
    parts = {name: oracle.sample(100, LENGTH, 10 * seed + place) for place, name in enumerate(("valid", "test"))}
    fitted = {"train": oracle.sample(200, LENGTH, 10 * seed + 2), **parts}
    found = {}
    for name, changes in (("", {}), ("best_", {"steps": 240, "best": "perplexity", "evaluate_every": 20})):
        budget = {**BUDGET, "batch_size": 32, "schedule": "constant", **changes}
        teacher = trained(
            "alone", seed=seed, data=oracle.data(fitted), student=oracle.model(1, 64, seed), **budget
        ).student
        learn = functools.partial(_student, oracle, teacher, parts, seed)
        found |= learn(f"{name}fixed", _written(teacher, STRINGS, seed))
        if not name:
            found |= learn("fresh", _written(teacher, UPDATES * BUDGET["batch_size"], seed + 100))
    return found


def _student(
    oracle: Oracle, teacher: nn.Module, parts: dict[str, Tensor], seed: int, name: str, rows: Tensor
) -> dict[str, float]:
    data = oracle.data({"train": rows, **parts})
    run = trained("lm_kd", kd=1.0, seed=seed, data=data, teacher=teacher, student=oracle.model(1, 48, seed + 1000),
                  oracle=Truth(oracle), **BUDGET)  # fmt: skip
    watched = run.record["monitor"]
    low, end = watched["finding"]["golden"]
    return {f"{name}_turned": watched["finding"]["turned"] or 0, f"{name}_low": low, f"{name}_end": end,
            f"{name}_proxy": watched["proxy"][-1]}  # fmt: skip


def _written(teacher: nn.Module, number: int, seed: int) -> Tensor:
    """Strings [number, LENGTH] that the teacher writes; those in which it begins anew (token 0) are left out."""
    sampler, draw, rows = sampler_of(teacher, resolve("causal_lm"), (0,)), torch.Generator().manual_seed(seed), []
    while len(rows) < number:
        first = torch.zeros(min(500, number), 1, dtype=torch.int64)
        prompts = Batch({"input_ids": first, "attention_mask": torch.ones_like(first)}, torch.arange(len(first)))
        answers = sampler.generate(prompts, Sampling(LENGTH - 1), draw)
        rows += [row for row, ended in zip(answers.tokens, answers.finished) if not ended]
    return torch.cat([torch.zeros(number, 1, dtype=torch.int64), torch.stack(rows[:number])], 1)


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    turned = {name: sum(row[f"{name}_turned"] > 0 for row in rows) for name in ("fixed", "fresh", "best_fixed")}
    rise = {
        name: sum((row[f"{name}_end"] - row[f"{name}_low"]) / max(row[f"{name}_low"], 1e-9) for row in rows) / len(rows)
        for name in turned
    }
    stands = turned["fixed"] >= 0.8 * len(rows) and turned["fresh"] <= 0.2 * len(rows)
    more = {name: f"{100 * each:.0f} %" for name, each in rise.items()}
    return stands, (
        f"Alarms in {turned['fixed']} of {len(rows)} seeds with fixed strings (the last distance to the oracle "
        f"{more['fixed']} above the lowest), in {turned['fresh']} with fresh ones ({more['fresh']}), in "
        f"{turned['best_fixed']} with fixed strings of a teacher at its best ({more['best_fixed']})."
    )
