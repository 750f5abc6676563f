"""Word-level KD on little and on plenty of text."""

from __future__ import annotations

from _language import BUDGET, given_text, score, tiny_lm, tiny_teacher, trained

from limbeck.proving import paired

CLAIM = (
    "On an eighth of a small corpus, half cross-entropy and half forward KL to a teacher gives a lower test NLL "
    "than the text alone."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, a BPE of 512 tokens, rows of 128, 300 updates of 8 rows; the teacher 3 x 96 learnt all "
    "texts, the student 1 x 48 has an eighth of them. `method` is kd 1 in the place of 0.5; the same on all of "
    "the text is reported beside it."
)


def measure(seed: int) -> dict[str, float]:
    found = given_text(seed, "lm_kd", warm=False, kd=1.0)
    half = trained(
        "lm_kd", seed=seed, data=tiny_lm(share=1 / 8), student="decoder:1,48", teacher=tiny_teacher(), **BUDGET
    )
    found["half"] = score(half)
    plenty = {"seed": seed, "data": tiny_lm(), "student": "decoder:1,48", **BUDGET}
    found["alone_plenty"] = score(trained("alone", **plenty))
    found["half_plenty"] = score(trained("lm_kd", teacher=tiny_teacher(), **plenty))
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "half", "alone")
    plenty, plenty_error = paired(rows, "half_plenty", "alone_plenty")
    pure, pure_error = paired(rows, "method", "half")
    return gap + error < 0, (
        f"Test NLL {gap:+.3f} ± {error:.3f} nats from the student alone; with all of the text "
        f"{plenty:+.3f} ± {plenty_error:.3f}; KL alone against half and half {pure:+.3f} ± {pure_error:.3f}."
    )
