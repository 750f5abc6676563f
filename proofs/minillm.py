"""MiniLLM on sums: reverse KL makes samples right, forward KL covers."""

from __future__ import annotations

from _language import reason_start, reasoned, sampled_match, score

from limbeck.proving import paired

CLAIM = (
    "After 240 updates from the same start, answers drawn at temperature 1 from MiniLLM's student are right more often than "
    "those drawn from the student of forward KL on given answers, whose NLL on given answers is the lower one."
)
SEEDS = range(3)
NOTE = (
    "A rollout for every 4 updates, from a mixture with 0.2 of the teacher; given answers beside them. The teacher of sums has "
    "hardly more than one way to an answer, so that there are few modes to choose between: a mild test of the second half. "
    "Learnt: with 4,000 given sums at hand, forward KL on them teaches more for as many updates."
)


def measure(seed: int) -> dict[str, float]:
    start = reason_start(seed)
    runs = {
        "minillm": reasoned("minillm", seed, start, max_new_tokens=32, steps=240),
        "forward_kl": reasoned("gkd", seed, start, lmbda=0.0, beta=0.0, steps=240),  # in batches shuffled alike
    }
    found = {name: sampled_match(run.student, seed) for name, run in runs.items()}
    found |= {f"{name}_greedy": score(run, "exact_match") for name, run in runs.items()}
    return found | {f"{name}_nll": score(run) for name, run in runs.items()}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "minillm", "forward_kl")
    greedy, greedy_error = paired(rows, "minillm_greedy", "forward_kl_greedy")
    nll, nll_error = paired(rows, "minillm_nll", "forward_kl_nll")
    return gap - error > 0 and nll - nll_error > 0, (
        f"Samples {gap:+.1f} ± {error:.1f} points of exact match from forward KL's, greedy answers {greedy:+.1f} ± "
        f"{greedy_error:.1f}; NLL on given answers {nll:+.3f} ± {nll_error:.3f} nats."
    )
