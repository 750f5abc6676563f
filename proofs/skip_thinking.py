"""Sums whose chains are full of sentences that say nothing: learnt whole, a chunk at a time, and without what can be spared."""

from __future__ import annotations

import copy

from _language import REASON, check, fresh_sums, given_answers, reason_start, score, trained

import limbeck as lb
from limbeck.proving import paired

CLAIM = (
    "On chains of sums with filler sentences, chunk-wise training gives more right answers than training on the full chains "
    "for as many updates, and skip-thinking training writes at least 30 % fewer tokens than that with no fewer right answers."
)
SEEDS = range(3)
NOTE = (
    "600 new sums, each step followed by a filler, test on 200. Chunks are the sentences. The student (2 x 64) begins from "
    "1,800 updates on other sums without fillers, and has 400 of 32 rows, shuffled alike in all arms; skip-thinking trains "
    "chunk-wise in the first half of them. Learnt: within this budget no arm learns to carry across the fillers, so that the "
    "numbers say nothing of the method, and a student without answers of its own gives no chunk up: it wants longer training."
)
STEPS = {"steps": 400, "batch_size": 32, "learning_rate": 1e-3}


def measure(seed: int) -> dict[str, float]:
    row, start = {}, reason_start(seed, steps=1800)  # one that can do sums, in chains without fillers
    chunked = {"chunks": 5, "sentence_ends": ";"}
    arms = {
        "full": given_answers,
        "chunks": lb.recipes.skip_thinking(**chunked, skip=0.0),
        "skip": lb.recipes.skip_thinking(**chunked, skip=0.5),
    }
    for name, arm in arms.items():
        run = trained(arm, seed=seed, data=fresh_sums(filled=True), student=copy.deepcopy(start), generate=200, checker=check,
                      **{**REASON, **STEPS})  # fmt: skip
        row |= {name: score(run, "exact_match"), f"{name}_tokens": score(run, "answer_tokens") / 100}
        if name == "skip":
            made = run.record["generated"][-1]
            row["rationale_tokens_kept"] = 100 * made["shortened_tokens"] / made["rationale_tokens"]
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    chunks, chunks_error = paired(rows, "chunks", "full")
    skip, skip_error = paired(rows, "skip", "full")
    fewer = 100 * (1 - sum(row["skip_tokens"] for row in rows) / max(sum(row["full_tokens"] for row in rows), 1))
    return chunks > chunks_error and skip > -skip_error and fewer >= 30, (
        f"Exact match of chunk-wise training {chunks:+.1f} ± {chunks_error:.1f} points from full chains, of skip-thinking "
        f"{skip:+.1f} ± {skip_error:.1f}, with {fewer:.0f} % fewer tokens."
    )
