"""SCRG on sums: answers mended at their worst token, beside the same answers as the student wrote them."""

from __future__ import annotations

from _language import reason_start, reasoned, score

from limbeck.proving import paired

CLAIM = (
    "After 60 updates from the same start, on as many answers of its own and as many given ones, a student of sums is right on "
    "more new sums when each of its answers was mended at its worst token and written anew from there than when it was not."
)
SEEDS = range(3)
NOTE = (
    "The terms are the same: DAC-KL and span distance on both kinds of answers, cross-entropy on given ones; `given` has these "
    "alone. Answers drawn at temperature 1, where the teacher itself is right far less often than when it is greedy. Learnt: "
    "one's own answers are worth much beside given ones, the mending of one token in them nothing that three seeds could show."
)


def measure(seed: int) -> dict[str, float]:
    start, common = reason_start(seed), {"steps": 60}
    runs = {
        "scrg": reasoned("scrg", seed, start, max_new_tokens=32, **common),
        "raw": reasoned("scrg", seed, start, max_new_tokens=32, repair=False, **common),
        "given": reasoned("mgsr", seed, start, **common),
    }
    found = {name: score(run, "exact_match") for name, run in runs.items()}
    return found | {f"{name}_nll": score(run) for name, run in runs.items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "scrg", "raw")
    other, other_error = paired(rows, "scrg", "given")
    nll, nll_error = paired(rows, "scrg_nll", "raw_nll")
    return gap - error > 0, (
        f"{gap:+.1f} ± {error:.1f} points of exact match from the unmended answers, {other:+.1f} ± {other_error:.1f} from "
        f"given answers alone; NLL on given answers {nll:+.3f} ± {nll_error:.3f} nats from the unmended."
    )
