"""Sums by a teacher that errs more the hotter it is sampled: a curriculum of temperatures, chosen and completed answers."""

from __future__ import annotations

import copy

import torch
from _language import REASON, check, fresh_sums, reason_start, reason_teacher, score, trained
from torch import nn

import limbeck as lb
from limbeck.data.generate import Sampling
from limbeck.data.generate_models import find_ends, sampler_of
from limbeck.data.language_parts import prompts
from limbeck.proving import paired
from limbeck.tasks import resolve

CLAIM = (
    "On sums, at equal numbers of the teacher's answers and of updates, exact match is higher by answers of low then high "
    "temperature than by high ones alone, and by these than by low ones alone; it is higher where answers rich in teacher "
    "sentences are chosen than by chance; and completing the student's own answers lowers how often it comes to no end."
)
SEEDS = range(3)
NOTE = (
    "600 new prompts, test on 200. The student (2 x 64) begins from 900 updates on given answers, and has 200 of 32 rows. "
    "Sentences are the steps of a sum. Cut off: answers at temperature 1 to the test prompts, 4 to each, without an end in 1.5 "
    "times the right answer's tokens."
)
STEPS = {"steps": 200, "batch_size": 32, "learning_rate": 1e-3}
COMMON = {"sentence_ends": ";", "max_new_tokens": 32}
ARMS = {
    "low": {"low_share": 1.0, "mixed": 0.0},
    "high": {"low_share": 0.0, "candidates": 1, "mixed": 0.0},
    "low_high": {"low_share": 0.25, "candidates": 1, "mixed": 0.0},
    "chosen": {"low_share": 0.0, "candidates": 4, "mixed": 0.0},
    "completed": {"low_share": 0.25, "candidates": 1, "mixed": 0.25},
}


def cut_off(student: nn.Module, times: int = 4) -> float:
    """Percent of sampled answers without an end in 1.5 times the tokens of the right one."""
    data, task = fresh_sums(), resolve("causal_lm")
    task.load(data)
    rows, draw = data.parts["test"], torch.Generator().manual_seed(0)
    lengths = (rows.starts[1:] - rows.starts[:-1] - rows.prompts).double()
    sampler = sampler_of(student, task, find_ends(rows, student, tokenizer=task.tokenizer))
    long = 0.0
    for _ in range(times):
        answers = sampler.generate(prompts(rows, torch.arange(len(rows))), Sampling(60), draw)
        long += float((~answers.finished | (answers.sizes > (1.5 * lengths).ceil())).double().mean())
    return 100 * long / times


def measure(seed: int) -> dict[str, float]:
    start = reason_start(seed)
    row = {"start_cut_off": cut_off(start)}
    for name, options in ARMS.items():
        run = trained(lb.recipes.dasd(**COMMON, **options), seed=seed, data=fresh_sums(), student=copy.deepcopy(start),
                      teacher=reason_teacher(), generate=200, checker=check, **{**REASON, **STEPS})  # fmt: skip
        row |= {name: score(run, "exact_match"), f"{name}_cut_off": cut_off(run.student)}
        made = run.record["generated"][-1]
        if name == "chosen":
            total = sum(made[f"sentences_{kind}"] for kind in ("teacher", "shared", "student"))
            row["teacher_sentences"] = 100 * made["sentences_teacher"] / total
        if name == "completed":
            row["completed_answers"] = made.get("completed_answers", 0.0)
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    curriculum, curriculum_error = paired(rows, "low_high", "high")
    hot, hot_error = paired(rows, "high", "low")
    chosen, chosen_error = paired(rows, "chosen", "high")
    long, long_error = paired(rows, "completed_cut_off", "low_high_cut_off")
    stands = curriculum > curriculum_error and hot > hot_error and chosen > chosen_error and long < -long_error
    return stands, (
        f"Exact match: low then high {curriculum:+.1f} ± {curriculum_error:.1f} points from high alone, high {hot:+.1f} ± "
        f"{hot_error:.1f} from low, chosen {chosen:+.1f} ± {chosen_error:.1f} from chance; cut-off answers {long:+.1f} ± "
        f"{long_error:.1f} points by completing."
    )
