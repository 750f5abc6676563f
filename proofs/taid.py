"""TAID beside forward, reverse and skew KL, from a smaller and from a larger teacher."""

from __future__ import annotations

from _language import continued, given_text, score, tiny_teacher

from limbeck.proving import paired

CLAIM = (
    "On an eighth of a small corpus TAID's student has a test NLL and a KL to the teacher that are at most those "
    "of forward KL, reverse KL and skew KL (means of 3 seeds)."
)
SEEDS = range(3)
NOTE = (
    "wikitext2_small, a BPE of 512 tokens, rows of 128, 300 updates of 8 rows; the teacher 3 x 96 learnt all "
    "texts, the student 1 x 48 has an eighth of them and was trained on it for 300 updates before (a fresh one: "
    "seed 0, TAID 4.05, forward KL 3.87, reverse 5.34, skew 4.72, alone 4.11); start 0.4, the paper's alpha 5e-4. "
    "Beside it, from a teacher of 2 x 48."
)


def measure(seed: int) -> dict[str, float]:
    found = given_text(seed, "taid")
    for name, recipe in (("reverse", "lm_reverse_kl"), ("skew", "lm_skew_kl")):
        run = continued(recipe, seed, teacher=tiny_teacher(), kd=1.0)
        found |= {name: score(run), f"{name}_kl": score(run, "kl_to_teacher")}
    small = tiny_teacher(layers=2, width=48)
    found["forward_kl_small"] = score(continued("lm_kd", seed, teacher=small, kd=1.0))
    found["method_small"] = score(continued("taid", seed, teacher=small))
    return found


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gaps = {
        (other, kind): paired(rows, f"method{kind}", f"{other}{kind}")
        for other in ("forward_kl", "reverse", "skew") for kind in ("", "_kl")
    }  # fmt: skip
    words = "; ".join(
        f"against {other.removesuffix('_kl')} NLL {gaps[other, ''][0]:+.3f} ± {gaps[other, ''][1]:.3f}, "
        f"KL {gaps[other, '_kl'][0]:+.3f} ± {gaps[other, '_kl'][1]:.3f}"
        for other in ("forward_kl", "reverse", "skew")
    )
    taid, _ = paired(rows, "method", "method_small")
    forward, _ = paired(rows, "forward_kl", "forward_kl_small")
    more = f" From the larger teacher instead of the smaller one: TAID {taid:+.3f}, forward KL {forward:+.3f}."
    return all(gap <= 0 for gap, _ in gaps.values()), f"TAID {words}.{more}"
