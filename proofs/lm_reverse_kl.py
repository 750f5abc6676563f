"""Reverse KL on given text beside forward KL and no teacher."""

from __future__ import annotations

from _language import given_text, judge_given_text

CLAIM = (
    "On an eighth of a small corpus, half cross-entropy and half reverse KL to a teacher gives a lower test NLL "
    "than the text alone, and one that is within 0.05 nats of half forward KL (the reverse KL does not aim at the "
    "NLL)."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, a BPE of 512 tokens, rows of 128, 300 updates of 8 rows; the teacher 3 x 96 learnt all "
    "texts, the student 1 x 48 has an eighth of them and was trained on it for 300 updates before. Both methods "
    "with kd 0.5."
)


def measure(seed: int) -> dict[str, float]:
    return given_text(seed, "lm_reverse_kl", kd=0.5)


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    return judge_given_text(rows, margin=0.05)
