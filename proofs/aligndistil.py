"""AlignDistil on symbols of a known chain: further than DPO, away from a model that learned the reverse."""

from __future__ import annotations

import copy
import functools

from _preferences import BUDGET, UPDATES, compared, dpo, length, preferences, sft, teacher, trained
from torch import nn

from limbeck.proving import paired

CLAIM = (
    "Where policy and reference begin as one model, AlignDistil's answers have more of what is preferred than those of DPO for "
    "as many updates as all of its stages, and the contrast with a reversed model gives more than that with the reference."
)
SEEDS = range(3)
NOTE = (
    "The bench of dckd, off policy, at beta2 10 and 3 (*_3): 30 updates of DPO and of reverse DPO, 60 of the student, against "
    "120 of DPO. small_*: a smaller student of 150 updates of SFT begins elsewhere. With the paper's floor of 1e-3 it learns "
    "little but to end at once: where both teachers agree beta / w is 100, and that outweighs all other tokens. A floor of "
    "0.3 mends it."
)
ALIGN = {**BUDGET, "learning_rate": 3e-4}
DATA = preferences(2000)


@functools.cache
def pair() -> dict[str, nn.Module]:
    aligned, reverse = (
        dpo(teacher(), DATA, steps=30, learning_rate=3e-4, reverse=reverse) for reverse in (False, True)
    )
    return {"teacher": teacher(), "aligned": aligned, "reverse": reverse}


def measure(seed: int) -> dict[str, float]:
    def distilled(student: nn.Module, **options: object) -> nn.Module:
        return trained("aligndistil", seed=seed, data=DATA, student=copy.deepcopy(student), **pair(), **options).student

    small = sft(seed, UPDATES // 2)
    models = {
        **pair(), "dpo": dpo(teacher(), DATA, seed=seed, steps=120, learning_rate=3e-4),
        "reference": distilled(teacher(), contrast=False, steps=60, **ALIGN),
        "contrast": distilled(teacher(), steps=60, **ALIGN),
        "reference_3": distilled(teacher(), contrast=False, beta2=3.0, steps=60, **ALIGN),
        "contrast_3": distilled(teacher(), beta2=3.0, steps=60, **ALIGN), "small_sft": small,
        "small": distilled(small, beta2=1.0, steps=150, **BUDGET),
        "small_floor": distilled(small, beta2=1.0, floor=0.3, steps=150, **BUDGET),
    }  # fmt: skip
    return compared(models, seed) | {f"{name}_length": length(models[name], seed) for name in ("small", "small_floor")}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gain, error = paired(rows, "contrast", "dpo")
    other, other_error = paired(rows, "contrast", "reference")
    mild, mild_error = paired(rows, "contrast_3", "dpo")
    sense, sense_error = paired(rows, "contrast_sense", "dpo_sense")
    calm, calm_error = paired(rows, "contrast_3_sense", "dpo_sense")
    return gain > 2 * error and other > 2 * other_error, (
        f"The share of vowels is {gain:.1f} ± {error:.1f} points above DPO's and {other:.1f} ± {other_error:.1f} above that "
        f"with the reference, at {sense:+.2f} ± {sense_error:.2f} nats of sense against DPO; with beta2 3 it is {mild:+.1f} ± "
        f"{mild_error:.1f} points at {calm:+.2f} ± {calm_error:.2f} nats."
    )
