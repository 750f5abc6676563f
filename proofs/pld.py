"""PLD: one list-wise loss without a weight to tune."""

from __future__ import annotations

import torch
from _common import score, teacher, trained, valid_accuracy
from scipy.stats import kendalltau

import limbeck as lb
from limbeck.evaluation.run import predict
from limbeck.proving import paired

CLAIM = (
    "On digits with 300 labels PLD, which has no weight to tune, is no more than 0.3 points below KD with its weight tuned on "
    "validation, and ranks the classes more like the teacher (Kendall's tau)."
)
SEEDS = range(5)
NOTE = (
    "PLD reads labels, so both train on the 300 labelled samples only. CNN teacher, mlp:32 student; soft of 0.5, 0.9, 1.0 "
    "for KD."
)


def tau(run: lb.Run, model: torch.nn.Module) -> float:
    """Mean Kendall correlation of the two models' class rankings on the test part."""
    ours, theirs = (predict(each, run.data.parts["test"], run.task) for each in (run.student, model))
    return sum(kendalltau(a, b).statistic for a, b in zip(ours.numpy(), theirs.numpy(), strict=True)) / len(ours)


def measure(seed: int) -> dict[str, float]:
    data = lb.load_data("digits", seed=seed, labelled=300)
    known = data.train.is_labelled().nonzero()[:, 0]
    from limbeck.data.splits import take

    data.parts["train"] = take(data.train, known, "train")
    given = {"seed": seed, "data": data, "teacher": teacher(seed)}
    pld = trained("pld", **given)
    kd = max((trained("kd", soft=w, **given) for w in (0.5, 0.9, 1.0)), key=valid_accuracy)
    return {
        "pld": score(pld), "kd": score(kd), "alone": score(trained("alone", seed=seed, data=data)),
        "pld_tau": tau(pld, teacher(seed)), "kd_tau": tau(kd, teacher(seed)),
    }  # fmt: skip


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "pld", "kd")
    ranks, ranks_error = paired(rows, "pld_tau", "kd_tau")
    return gap >= -0.3 and ranks > 2 * ranks_error, (
        f"PLD is {gap:+.2f} ± {error:.2f} points from tuned KD; its Kendall tau with the teacher is {ranks:+.3f} ± "
        f"{ranks_error:.3f} from KD's."
    )
