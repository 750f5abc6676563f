"""TSD-KD on sums, beside GKD and with each of its two further terms left out."""

from __future__ import annotations

from _language import reason_start, reasoned, score

from limbeck.proving import paired

CLAIM = (
    "After 60 updates on its own answers from the same start, a student of sums is right on more new sums by TSD-KD, at the "
    "paper's weights, than by GKD with the same divergence (beta 0.9)."
)
SEEDS = range(3)
NOTE = (
    "The paper's weights were chosen for models of billions of weights at a learning rate of 5e-6; here it is 1e-3, and the "
    "ranking of ten tokens, of which a teacher of sums means one, is as large as all else. no_ranking and no_entropy leave one "
    "term out."
)


def measure(seed: int) -> dict[str, float]:
    start, common = reason_start(seed), {"max_new_tokens": 32, "steps": 60}
    runs = {
        "tsd_kd": reasoned("tsd_kd", seed, start, **common),
        "gkd": reasoned("gkd", seed, start, lmbda=1.0, beta=0.9, **common),
        "no_ranking": reasoned("tsd_kd", seed, start, indirect=0.0, **common),
        "no_entropy": reasoned("tsd_kd", seed, start, entropy=0.0, **common),
    }
    return {name: score(run, "exact_match") for name, run in runs.items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "tsd_kd", "gkd")
    without = ", ".join(
        f"without {what} {mean:+.1f} ± {spread:.1f}"
        for what, (mean, spread) in (
            ("the ranking", paired(rows, "no_ranking", "gkd")), ("the entropy", paired(rows, "no_entropy", "gkd")),
        )
    )  # fmt: skip
    return gap - error > 0, f"{gap:+.1f} ± {error:.1f} points of exact match from GKD; {without}."
