"""ULD across tokenizers, where the student has little text."""

from __future__ import annotations

from _tokenizers import SETTING, bits

from limbeck.proving import paired

CLAIM = (
    "A student that reads bytes and has little text needs fewer bits per byte by cross-entropy and 1.5 ULD to a teacher that "
    "reads BPE than by cross-entropy alone, for as many updates."
)
SEEDS = range(3)
NOTE = f"{SETTING} Beside it `observed`: the same with the rows that predict the same chunk (GOLD's alignment)."


def measure(seed: int) -> dict[str, float]:
    return {
        "uld": bits(seed, "uld"), "observed": bits(seed, "uld", rows="observed"), "alone": bits(seed, "alone"),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    alone, error = paired(rows, "uld", "alone")
    observed, observed_error = paired(rows, "observed", "alone")
    return alone + error < 0, (
        f"ULD {alone:+.3f} ± {error:.3f} bits per byte from cross-entropy alone; on the rows of the same chunks "
        f"{observed:+.3f} ± {observed_error:.3f}."
    )
