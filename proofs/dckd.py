"""DCKD on symbols of a known chain: what a small student gets from a teacher that was aligned with preferences."""

from __future__ import annotations

from _preferences import BUDGET, UPDATES, compared, dpo_student, preferences, sft, student, teachers, trained

from limbeck.proving import paired

CLAIM = (
    "For as many updates, a student that matches an aligned teacher on chosen and rejected answers writes more of what is "
    "preferred than after SFT on the chosen ones, and what it writes makes more sense than after SFT and DPO of its own."
)
SEEDS = range(3)
NOTE = (
    "Preferred are vowels, of which the chain has 26 %; sense is the chain's log-probability of a symbol, -1.72 for its own "
    "(moves that it never makes count as e^-9.2). 2,000 pairs, a Llama of 2 layers x 64 as teacher, one of 1 x 24 as student, "
    "300 updates; DPO at the better of two rates. That DCKD has more reward than DPO is no part of the claim, and not so: what "
    "it gets from the teacher is the better language."
)


def measure(seed: int) -> dict[str, float]:
    before, aligned = teachers()
    run = trained("dckd", seed=seed, data=preferences(2000), student=student(seed), teacher=before, aligned=aligned,
                  steps=UPDATES, **BUDGET)  # fmt: skip
    return compared(
        {
            "teacher": before,
            "aligned": aligned,
            "sft": sft(seed, UPDATES),
            "dpo": dpo_student(seed),
            "dckd": run.student,
        },
        seed,
    )


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gain, error = paired(rows, "dckd", "sft")
    sense, sense_error = paired(rows, "dckd_sense", "dpo_sense")
    other, other_error = paired(rows, "dckd", "dpo")
    return gain > 2 * error and sense > 2 * sense_error, (
        f"DCKD's answers have {gain:.1f} ± {error:.1f} points more vowels than SFT's and {other:+.1f} ± {other_error:.1f} than "
        f"those of SFT and DPO, at a sense {sense:+.2f} ± {sense_error:.2f} nats a symbol above the latter."
    )
