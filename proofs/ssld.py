"""SSLD: the teacher alone, on labelled and unlabelled inputs."""

from __future__ import annotations

import torch
from _common import score, teacher, trained

import limbeck as lb
from limbeck.data.splits import take
from limbeck.proving import paired

CLAIM = (
    "On digits a student that learns from the teacher alone, on 200 labelled and 1,000 unlabelled images and without looking "
    "at a label, is at least as accurate as KD with labels on the 200 labelled images."
)
SEEDS = range(5)
NOTE = (
    "The paper's pool selection is not part of it. Ablation: forward KL at temperature 1 in the place of the symmetric KL, on "
    "the same inputs (forward). CNN teacher, mlp:32 student."
)


def measure(seed: int) -> dict[str, float]:
    data = lb.load_data("digits", seed=seed, labelled=200)
    known, unknown = (where.nonzero()[:, 0] for where in (data.train.is_labelled(), ~data.train.is_labelled()))
    pool = torch.cat([known, unknown[:1000]])
    both = lb.load_data(data)
    both.parts["train"] = take(data.train, pool, "train")
    labelled = lb.load_data(data)
    labelled.parts["train"] = take(data.train, known, "train")
    given = {"seed": seed, "teacher": teacher(seed)}
    return {
        "ssld": score(trained("ssld", data=both, **given)),
        "forward": score(trained("kd", temperature=1.0, soft=1.0, data=both, **given)),
        "kd_labelled": score(trained("kd", data=labelled, **given)),
        "alone": score(trained("alone", seed=seed, data=labelled)),
    }


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "ssld", "kd_labelled")
    ablation, ablation_error = paired(rows, "ssld", "forward")
    return gap + error >= 0 and gap >= 0, (
        f"SSLD is {gap:+.1f} ± {error:.1f} points from KD on the labelled part; symmetric against forward KL: "
        f"{ablation:+.2f} ± {ablation_error:.2f}."
    )
