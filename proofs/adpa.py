"""ADPA+ on symbols of a known chain: an aligned teacher's advantages as rewards of every token."""

from __future__ import annotations

from _preferences import BUDGET, UPDATES, compared, dpo_student, preferences, sft, student, teachers, trained

from limbeck.proving import paired

CLAIM = (
    "For as many updates, a student's answers have more of what is preferred after ADPA+ than after DCKD, after SFT and DPO of "
    "its own, and after SFT on the chosen answers; and they make no less sense than DPO's."
)
SEEDS = range(3)
NOTE = (
    "The bench of dckd. ADPA+ is DCKD for half of the updates and advantages on one answer to each prompt for the other half; "
    "adpa begins with SFT instead. The order of DCKD and DPO is measured and not claimed."
)


def measure(seed: int) -> dict[str, float]:
    before, aligned = teachers()
    options = {"seed": seed, "data": preferences(2000), "teacher": before, "aligned": aligned, **BUDGET}
    half = {"steps": UPDATES // 2, "max_new_tokens": 12}
    dckd = trained("dckd", student=student(seed), steps=UPDATES, **options)
    adpa = trained("adpa", student=student(seed), **half, **options)
    plus = trained("adpa", student=student(seed), start="dckd", **half, **options)
    models = {"sft": sft(seed, UPDATES), "dpo": dpo_student(seed), "dckd": dckd.student, "adpa": adpa.student}
    return compared({**models, "adpa_plus": plus.student}, seed)


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gaps = {name: paired(rows, "adpa_plus", name) for name in ("dckd", "dpo", "sft")}
    sense, sense_error = paired(rows, "adpa_plus_sense", "dpo_sense")
    better = all(gap > 2 * error for gap, error in gaps.values())
    text = ", ".join(f"{gap:.1f} ± {error:.1f} points above {name}" for name, (gap, error) in gaps.items())
    return better and sense > -2 * sense_error, (
        f"The share of vowels is {text}; sense against DPO {sense:+.2f} ± {sense_error:.2f} nats a symbol."
    )
