"""Domains mixed by the student's lag: articles, plays, worked problems, and news in a language that the teacher never saw."""

from __future__ import annotations

import functools

import torch
from _language import BUDGET, LENGTH, kept, trained
from torch import nn

import limbeck as lb
from limbeck import objectives as o
from limbeck._optional import need
from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.shared import find_shared
from limbeck.data.splits import take
from limbeck.data.tokenizer import texts_of, train_tokenizer
from limbeck.proving import paired
from limbeck.recipes.registry import recipe
from limbeck.tasks import resolve
from limbeck.training.job import Job
from limbeck.training.mixture_source import domain_parts
from limbeck.training.stage import Stage

CLAIM = (
    "On articles, plays, worked problems and Spanish news the gap to the teacher (nats per token) in the domain where it is "
    "widest is smaller by DDK's mixture than by an even one and than by one in proportion to the data, at equal numbers of "
    "tokens."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, tiny_shakespeare, gsm8k and the Spanish sentences of conll2002_ner, packed rows of 128 of 512 BPE "
    "tokens. The teacher (3 x 96) was trained on the first three in proportion; the student is 1 x 48, 300 steps of 8 rows, "
    "CE + 0.2 KL in all three arms. Test gaps on 60 rows of each domain."
)
ENGLISH = ("wikitext2_small", "tiny_shakespeare", "gsm8k")


def spanish() -> dict[str, list[str]]:
    """Passages of eight sentences, by split."""
    pandas, found = need("pandas", "tables"), {}
    for split in ("train", "test"):
        frame = pandas.read_parquet(find_shared("conll2002_ner") / f"es_{split}.parquet")
        sentences = [" ".join(tokens) for tokens in frame.tokens]
        found[split] = [" ".join(sentences[start : start + 8]) for start in range(0, len(sentences), 8)]
    return found


@functools.cache
def texts(domains: tuple[str, ...] = (*ENGLISH, "spanish")) -> Data:
    """Rows by domain, of a tokenizer that was learnt from all of them; of 32 validation and 60 test rows each."""
    spec = {name: spanish() if name == "spanish" else named_language(name) for name in (*ENGLISH, "spanish")}
    tokenizer = train_tokenizer(texts_of(spec), 512)
    some = {name: spec[name] for name in domains}
    data = load_language_data(some, tokenizer, length=LENGTH, valid=0.05, template="plain")
    for part, rows in (("valid", 32), ("test", 60)):
        places = [one.positions for one in domain_parts(data, part, rows).values()]
        data.parts[part] = take(data.parts[part], torch.cat(places), part)
    return data


@functools.cache
def teacher() -> nn.Module:
    return kept("tiny-domains-3x96", texts(ENGLISH), "decoder:3,96", **{**BUDGET, "steps": 1200})


def gaps(student: nn.Module) -> dict[str, float]:
    """Cross-entropy above the teacher's, nats per token, by domain."""
    task, found = resolve("causal_lm"), {}
    for name, part in domain_parts(texts(), "test").items():
        losses = [task.measure(model, part)["scores"]["nll"] for model in (student, teacher())]
        found[name] = losses[0] - losses[1]
    return found


@recipe(paper="DDK's objective on the data as they are", year=2024, field="language", tasks=("causal_lm",))
def proportional(job: Job) -> Stage:
    """Shuffled passes over all rows."""
    return job.stage(o.cross_entropy() + 0.2 * o.forward_kl())


def measure(seed: int) -> dict[str, float]:
    row = {}
    arms = {"ddk": lb.recipes.ddk(every=25), "even": lb.recipes.ddk(uniform=1.0), "proportional": proportional}
    for name, arm in arms.items():
        run = trained(arm, seed=seed, data=texts(), student="decoder:1,48", teacher=teacher(), **BUDGET)
        found = gaps(run.student)
        row |= {f"{name}_widest": max(found.values())} | {f"{name}_{domain}": gap for domain, gap in found.items()}
        if name == "ddk":
            row |= {f"share_{domain}": values[-1] for domain, values in run.record["mixture"]["share"].items()}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    even, even_error = paired(rows, "even_widest", "ddk_widest")
    data, data_error = paired(rows, "proportional_widest", "ddk_widest")
    return even > 2 * even_error and data > 2 * data_error, (
        f"DDK's widest gap is {even:.3f} ± {even_error:.3f} nats per token below the even mixture's and {data:.3f} ± "
        f"{data_error:.3f} below that of the data's own proportions."
    )
