"""ALM across tokenizers, where the student has little text."""

from __future__ import annotations

from _tokenizers import SETTING, bits, teacher_bits

from limbeck.proving import paired

CLAIM = (
    "A student that reads bytes and has little text needs fewer bits per byte when ALM gives it the likelihoods of a teacher "
    "that reads BPE than by ULD, and than alone, for as many updates."
)
SEEDS = range(3)
NOTE = (
    f"{SETTING} ALM without any cross-entropy, at its defaults. Beside it `stopped`: the student alone, kept where its bits "
    "on other text were fewest, which the claim does not count; `teacher`: the teacher in its own tokens."
)


def measure(seed: int) -> dict[str, float]:
    return {
        "alm": bits(seed, "alm"), "uld": bits(seed, "uld"), "alone": bits(seed, "alone"),
        "stopped": bits(seed, "alone", best="perplexity", evaluate_every=50), "teacher": teacher_bits(),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    alone, alone_error = paired(rows, "alm", "alone")
    uld, uld_error = paired(rows, "alm", "uld")
    stopped, stopped_error = paired(rows, "alm", "stopped")
    return alone + alone_error < 0 and uld + uld_error < 0, (
        f"ALM {alone:+.3f} ± {alone_error:.3f} bits per byte from the student alone, {uld:+.3f} ± {uld_error:.3f} from ULD, "
        f"{stopped:+.3f} ± {stopped_error:.3f} from the student alone stopped at its best."
    )
