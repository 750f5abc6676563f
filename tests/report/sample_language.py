"""The record of a language model's run, built in code."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sample_records as records
from sample_records import stat

from limbeck.evaluation.hacking import hacking

PART = {"samples": 5560, "rows": 7987, "documents": 10703, "tokens": 509156, "predicted": 498453,
        "length": {"p50": 51, "p95": 286, "max": 1743}, "cut": 0.031, "padding": 0.004}  # fmt: skip


def model(name: str, role: str, nll: float, agreement: float, seeds: int = 3) -> dict[str, Any]:
    scores = {"perplexity": stat(2.718**nll, 0.3, seeds), "token_accuracy": stat(0.31, 0.002, seeds),
              "nll": stat(nll, 0.005, seeds), "ece": stat(0.02, 0.001, seeds)}  # fmt: skip
    near = {"kl_to_teacher": stat(1 - agreement, 0.002, seeds), "js_to_teacher": stat(0.06, 0.001, seeds),
            "tv_to_teacher": stat(0.2, 0.002, seeds), "top1_agreement": stat(agreement, 0.002, seeds),
            "top1_agreement_teacher_right": stat(agreement + 0.1, 0.002, seeds),
            "top1_agreement_teacher_wrong": stat(agreement - 0.1, 0.002, seeds),
            "accuracy_teacher_wrong": stat(0.08, 0.002, seeds),
            "second_choice_agreement": stat(agreement - 0.2, 0.002, seeds)}  # fmt: skip
    cost = {"parameters": 400_000, "bytes": 1_600_000, "macs": 3_000_000, "latency": records.latency(2.0)}
    return {"name": name, "role": role, "scores": scores, "agreement": {} if role == "teacher" else near, "cost": cost,
            "reliability": records.bins(0.02, 60_000, 1)}  # fmt: skip


def monitor(hacks: bool = True) -> dict[str, Any]:
    """Both distances of a training whose student turned away from the text at step 160, or did not."""
    steps = [round(10 * 1.25**place) for place in range(22)]
    proxy = [3 * step**-0.6 for step in steps]
    golden = [2.5 + 3 * step**-0.5 + (0.0006 * (step - 149) if hacks and step > 149 else 0) for step in steps]
    found = hacking(steps, proxy, golden)
    return {"step": steps, "proxy": proxy, "golden": golden, "names": ["kl_to_teacher", "nll"], "truth": "the held-out text",
            "part": "valid", "finding": asdict(found), "alarm": found.alarm,
            "sentence": found.sentence("the held-out text")}  # fmt: skip


def language(student: tuple[float, float] = (3.1, 0.72), alone: tuple[float, float] = (3.4, 0.61)) -> dict[str, Any]:
    """Three seeds of a student and of the same one alone: (nll, top-1 agreement) each."""
    sample = {"prompt": "Tom has 3 apples and buys 4. How many?", "reference": "3 + 4 = 7\n#### 7",
              "teacher": "He starts with 3.\n3 + 4 = 7\n#### 7", "student": "He starts with 3.\n3 + 4 = 8\n#### 8"}  # fmt: skip
    hostile = {**sample, "student": "</p><script>alert(1)</script> " + "w" * 3000, "judge says": "<b>no</b>"}
    return {
        "title": "lm_kd on plays", "task": "causal_lm", "seeds": [0, 1, 2],
        "recipe": {"name": "lm_kd", "arguments": {"kd": 0.5}, "summary": "Match the next tokens."},
        "data": {"name": "plays", "kind": "tokens", "classes": None, "length": 64, "scored on": "test",
                 "statistics": {"train": PART, "test": {**PART, "samples": 940}},
                 "left_out": {"train": {"the text is empty": 4}, "test": {}},
                 "split": {"seed": 0, "made": {}, "sizes": {"train": 5564, "test": 940}},
                 "counts": {"train, labelled": 7987, "test": 1023}},
        "models": [model("teacher", "teacher", 2.9, 1.0, 1), model("student", "student", *student),
                   model("student alone", "baseline", *alone)],
        "curves": records.curves(40),
        "scores_over_time": {"perplexity": {"step": [10, 20, 30], "value": [60.0, 30.0, 22.0]},
                             "ece": {"step": [30], "value": [0.02]}},
        "monitor": monitor(), "generated": [{"answers": 640, "unfinished": 0.013}],
        "samples": [sample, hostile, *[sample] * 5],
    }  # fmt: skip
