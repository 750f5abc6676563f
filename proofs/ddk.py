"""Domains mixed by the student's lag: articles, plays and worked problems, of which two are short and one is long."""

from __future__ import annotations

import functools

from _language import BUDGET, LENGTH, kept, trained
from torch import nn

import limbeck as lb
from limbeck import objectives as o
from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.tokenizer import texts_of, train_tokenizer
from limbeck.proving import paired
from limbeck.recipes.registry import recipe
from limbeck.tasks import resolve
from limbeck.training.job import Job
from limbeck.training.mixture_source import domain_parts
from limbeck.training.stage import Stage

CLAIM = (
    "On articles, plays and worked problems the gap to the teacher (nats per token) in the domain where it is widest is "
    "smaller by DDK's mixture than by an even one and than by one in proportion to the data, at equal numbers of tokens."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, tiny_shakespeare and gsm8k, packed rows of 128 of 512 BPE tokens; teacher 3 x 96 trained on an even "
    "mixture of all of it, student 1 x 48, 300 steps of 8 rows, CE + 0.2 KL in all three. Test gaps on 100 rows of each domain."
)
STUDENT = "decoder:1,48"


@functools.cache
def texts() -> Data:
    spec = {name: named_language(name) for name in ("wikitext2_small", "tiny_shakespeare", "gsm8k")}
    tokenizer = train_tokenizer(texts_of(spec), 512)
    return load_language_data(spec, tokenizer, length=LENGTH, valid=0.05, template="plain")


@functools.cache
def teacher() -> nn.Module:
    return kept("tiny-domains-3x96", texts(), "decoder:3,96", **{**BUDGET, "steps": 1200})


def gaps(student: nn.Module) -> dict[str, float]:
    """Cross-entropy above the teacher's, nats per token, by domain."""
    task = resolve("causal_lm")
    parts = domain_parts(texts(), "test", 100)
    found = {name: task.measure(student, part)["scores"]["nll"] for name, part in parts.items()}
    return {name: loss - task.measure(teacher(), parts[name])["scores"]["nll"] for name, loss in found.items()}


@recipe(paper="The same objective on the data as they are", year=2024, field="language", tasks=("causal_lm",))
def proportional(job: Job) -> Stage:
    """DDK's objective in shuffled passes over all rows."""
    return job.stage(o.cross_entropy() + 0.2 * o.forward_kl())


def measure(seed: int) -> dict[str, float]:
    row = {}
    arms = {"ddk": lb.recipes.ddk(every=25), "even": lb.recipes.ddk(uniform=1.0), "proportional": proportional}
    for name, arm in arms.items():
        run = trained(arm, seed=seed, data=texts(), student=STUDENT, teacher=teacher(), **BUDGET)
        found = gaps(run.student)
        row |= {f"{name}_worst": max(found.values()), f"{name}_mean": sum(found.values()) / len(found)}
        row |= {f"{name}_{domain}": gap for domain, gap in found.items()}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    even, even_error = paired(rows, "even_worst", "ddk_worst")
    data, data_error = paired(rows, "proportional_worst", "ddk_worst")
    return even - 2 * even_error > 0 and data - 2 * data_error > 0, (
        f"DDK's widest gap is {even:.3f} ± {even_error:.3f} nats per token below the even mixture's and {data:.3f} ± "
        f"{data_error:.3f} below that of the data's own proportions."
    )
