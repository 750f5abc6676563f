"""DAC-KL and span correlation beside forward KL and no teacher."""

from __future__ import annotations

from _language import continued, given_text, judge_given_text, score, tiny_teacher

from limbeck.proving import paired

CLAIM = (
    "On an eighth of a small corpus, cross-entropy with DAC-KL and span correlation gives a lower test NLL than "
    "the text alone, and one that is at most that of half cross-entropy and half forward KL."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, a BPE of 512 tokens, rows of 128, 300 updates of 8 rows; the teacher 3 x 96 learnt all "
    "texts, the student 1 x 48 has an eighth of them and was trained on it for 300 updates before. Without the "
    "repair of the student's own text (SCRG), which needs answers. Ablations: without the span term, without "
    "DAC-KL."
)


def measure(seed: int) -> dict[str, float]:
    found = given_text(seed, "mgsr", kd=0.5)
    for name, options in (("without_span", {"span": 0.0}), ("without_dac", {"dac": 0.0})):
        run = continued("mgsr", seed, teacher=tiny_teacher(), **options)
        found[name] = score(run)
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    stands, finding = judge_given_text(rows)
    parts = ", ".join(
        f"{name.replace('_', ' ')} {paired(rows, name, 'method')[0]:+.3f}" for name in ("without_span", "without_dac")
    )
    return stands, f"{finding} Ablations against all of it: {parts}."
