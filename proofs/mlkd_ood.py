"""Texts of another kind: a language model taught by a tuned one against that one, and against one trained on the texts."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from _language import kept, trained

import limbeck as lb
from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.shared import find_shared
from limbeck.data.tokenizer import train_tokenizer
from limbeck.describe import novelty_of
from limbeck.proving import paired
from limbeck.tasks import resolve

CLAIM = (
    "On CLINC150, by perplexity, a language model distilled by MLKD from a tuned one tells requests out of scope from others "
    "with a higher AUROC than that teacher and than the same model trained on the same texts without a teacher."
)
SEEDS = range(3)
NOTE = (
    "decoder:4,64 over 512 symbols. Teacher: 600 steps on wikitext2_small, then 200 on 4,000 requests in scope. Students from "
    "scratch, 400 steps on the same requests: MLKD (layers 1 to 3), lm_kd, cross-entropy. Outside: the 1,000 test "
    "requests out of scope, inside: 1,000 in scope. Nothing is tuned; the rate is 3e-3 for all, 1e-3 for the tuning."
)
NET, BATCH = "decoder:4,64", {"clip": 1.0, "best": "last", "evaluate_every": 10_000}


def requests(split: str, scope: bool) -> list[str]:
    import pandas as pd

    frame = pd.read_parquet(find_shared("clinc150") / f"{split}.parquet")
    return list(frame[(frame.label >= 0) == scope].text.sample(frac=1.0, random_state=0))


@functools.cache
def tokenizer() -> Any:
    return train_tokenizer([*named_language("wikitext2_small")["train"], *requests("train", True)], 512)


@functools.cache
def tuning() -> Data:
    splits = {"train": requests("train", True)[:4000], "test": requests("test", True)[:300]}
    return load_language_data(splits, tokenizer(), length=64, valid=0.0, pack=False)


@functools.cache
def pretrained() -> torch.nn.Module:
    data = load_language_data(named_language("wikitext2_small"), tokenizer(), length=128, valid=0.0)
    return kept("mlkd-wikitext", data, NET, steps=600, batch_size=8, learning_rate=3e-3, seed=0, **BATCH)


@functools.cache
def sides() -> list[Any]:
    """1,000 requests in scope and 1,000 out of scope, one a row."""
    texts = [requests("test", scope)[:1000] for scope in (True, False)]
    return [load_language_data({"train": each, "test": each[:2]}, tokenizer(), length=64, valid=0.0, pack=False).train
            for each in texts]  # fmt: skip


def found(model: torch.nn.Module) -> dict[str, float]:
    return {name: 100 * value for name, value in novelty_of(resolve("causal_lm"), model, *sides()).items()}


def measure(seed: int) -> dict[str, float]:
    data = tuning()
    tune: dict[str, Any] = {"steps": 200, "batch_size": 32, "learning_rate": 1e-3, **BATCH}
    teacher = trained("alone", seed=seed, data=data, student=copy.deepcopy(pretrained()), **tune).student
    budget: dict[str, Any] = {"student": NET, "steps": 400, "batch_size": 32, "learning_rate": 3e-3, **BATCH}
    models = {
        "mlkd": trained("mlkd_ood", seed=seed, data=data, teacher=teacher, **budget).student,
        "kd": trained(lb.recipes.lm_kd(kd=1.0), seed=seed, data=data, teacher=teacher, **budget).student,
        "scratch": trained("alone", seed=seed, data=data, **budget).student,
        "teacher": teacher, "pretrained": pretrained(),
    }  # fmt: skip
    return {f"{score}_{name}": value for name, model in models.items() for score, value in found(model).items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    gaps = {name: paired(rows, "auroc_mlkd", f"auroc_{name}") for name in ("teacher", "scratch", "kd")}
    stands = all(gaps[name][0] > 2 * gaps[name][1] for name in ("teacher", "scratch"))
    told = ", ".join(
        f"{name} {mean[f'auroc_{name}']:.1f}" for name in ("mlkd", "kd", "scratch", "teacher", "pretrained")
    )
    apart = ", ".join(f"{gap:+.2f} ± {error:.2f} over {name}" for name, (gap, error) in gaps.items())
    return stands, f"AUROC of perplexity in percent: {told}; MLKD {apart}; FAR95 {mean['far95_mlkd']:.1f} %."
