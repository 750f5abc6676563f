"""The verdict says what the numbers say, and not more."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sample_records as records

from limbeck.report import verdict
from limbeck.report.compare import difference
from limbeck.report.numbers import Stat, stat
from limbeck.report.words import measure


def one(
    role: str, values: list[float], key: str = "accuracy", size: int | None = None, p50: float | None = None
) -> dict[str, Any]:
    timed = [{"backend": "torch", "batch": 1, "p50_ms": p50}] if p50 else []
    return {"name": role, "role": role, "scores": {key: {"values": values}}, "cost": {"bytes": size, "latency": timed}}


def record(*models: dict[str, Any], test: int | None = None, **more: Any) -> dict[str, Any]:
    return {"models": list(models), "data": {"counts": {"test": test}}, **more}


def test_the_sentence_of_a_good_run():
    assert verdict(records.full()) == (
        "The student keeps 98.9 % of the teacher's accuracy (95.1 % of 96.2 %) at 1/38 of its size and answers 12 times "
        "faster; trained alone on the same labels it reaches 88.9 % (5 seeds, ± 0.3)."
    )


def test_a_student_worse_than_alone_did_not_pay():
    assert verdict(records.worse_than_alone()) == (
        "The student keeps 96.8 % of the teacher's accuracy (93.1 % of 96.2 %) at the same size and answers about as fast; "
        "trained alone on the same labels it reaches 94.9 % (5 seeds, ± 0.3): distillation did not pay here."
    )


def test_a_difference_within_the_spread_is_no_clear_difference():
    student, alone = [0.90, 0.92, 0.94], [0.91, 0.93, 0.90]
    said = verdict(record(one("teacher", [0.95]), one("student", student), one("baseline", alone)))
    assert said.endswith("it reaches 91.3 % (3 seeds, ± 1.5): no clear difference (+0.7 ± 1.7 points), so distillation is not "
                         "shown to pay here.")  # fmt: skip


def test_the_same_means_are_clear_where_seeds_move_together():
    """Paired: each seed gains 1 point, though the seeds lie 4 points apart."""
    student, alone = [0.91, 0.93, 0.952], [0.90, 0.92, 0.94]
    said = verdict(record(one("student", student), one("baseline", alone)))
    assert (
        said
        == "The student reaches 93.1 % accuracy; trained alone on the same labels it reaches 92.0 % (3 seeds, ± 2.0)."
    )


def test_one_seed_is_judged_by_the_number_of_test_samples():
    models = one("teacher", [0.97]), one("student", [0.95]), one("baseline", [0.94])
    assert "reaches 94.0 % (one seed): no clear difference (+1.0 ± 1.0 points)" in verdict(record(*models, test=1000))
    assert verdict(record(*models, test=100_000)).endswith("reaches 94.0 % (one seed).")
    assert verdict(record(*models)).endswith("reaches 94.0 % (one seed, so the spread is not known).")
    worse = one("student", [0.93]), one("baseline", [0.94])
    assert verdict(record(*worse)).endswith(
        "94.0 % (one seed, so the spread is not known): distillation did not pay here."
    )


def test_regression_is_said_in_its_own_unit():
    assert verdict(records.regression()) == (
        "The student has a mean squared error of 0.270 against the teacher's 0.240 (13 % more) at 1/75 of its size and answers "
        "3 times faster; trained alone on the same labels it has 0.360 (3 seeds, ± 0.020)."
    )
    worse = record(one("student", [0.5, 0.52, 0.51], "mse"), one("baseline", [0.4, 0.41, 0.4], "mse"))
    assert verdict(worse).endswith("it has 0.403 (3 seeds, ± 0.006): distillation did not pay here.")


def test_a_student_above_its_teacher_reaches_instead_of_keeping():
    said = verdict(record(one("teacher", [0.90]), one("student", [0.92])))
    assert said.startswith("The student reaches 92.0 % accuracy against the teacher's 90.0 %;")


def test_almost_all_is_not_rounded_to_all():
    said = verdict(record(one("teacher", [0.9500]), one("student", [0.9498])))
    assert said.startswith("The student keeps 99.98 % of the teacher's accuracy (94.98 % of 95.00 %)")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [((1000, 1000), "at the same size"), ((1000, 430), "at 43 % of its size"), ((1000, 20), "at 1/50 of its size"),
     ((1000, 1500), "at 1.5 times its size")],
)  # fmt: skip
def test_sizes(sizes, words):
    said = verdict(record(one("teacher", [0.9], size=sizes[0]), one("student", [0.8], size=sizes[1])))
    assert f"(80.0 % of 90.0 %) {words};" in said


@pytest.mark.parametrize(
    ("times", "words"),
    [((10.0, 10.5), "about as fast"), ((10.0, 4.0), "2.5 times faster"), ((30.0, 1.0), "30 times faster"),
     ((10.0, 20.0), "2 times slower")],
)  # fmt: skip
def test_speeds(times, words):
    said = verdict(record(one("teacher", [0.9], p50=times[0]), one("student", [0.8], p50=times[1])))
    assert f"and answers {words};" in said


def test_nothing_measured():
    assert verdict({}) == "No student was measured in this run."
    assert verdict(record(one("teacher", [0.9]))) == "No student was measured in this run."
    assert verdict(records.only_student()) == "The student reaches 90.0 % accuracy (one seed)."


def test_the_task_s_best_score_leads():
    model = {"role": "student", "scores": {"accuracy": 0.9, "glow": 3.25}}
    assert verdict({"models": [model], "best": ["glow", "max"]}) == "The student has a glow of 3.25 (one seed)."


def test_difference_by_hand():
    accuracy = measure("accuracy")
    paired = difference(stat([0.9, 0.8, 0.7]), stat([0.8, 0.75, 0.55]), accuracy)  # gaps 0.10, 0.05, 0.15
    assert paired.mean == pytest.approx(0.1)
    assert paired.error == pytest.approx(0.05 / math.sqrt(3))
    assert paired.clear is False  # 0.1 < 4.30 * 0.0289
    assert paired.basis == "paired over 3 seeds"
    pooled = difference(stat([0.9, 0.8]), stat(0.5), accuracy)  # variance 0.005, one degree of freedom
    assert pooled.error == pytest.approx(math.sqrt(0.005 * 1.5))
    assert pooled.clear is False
    single = difference(stat(0.9), stat(0.5), accuracy, samples=100)
    assert single.error == pytest.approx(math.sqrt((0.09 + 0.25) / 100))
    assert single.clear is True
    assert difference(stat(0.9), stat(0.5), measure("nll"), samples=100).clear is None
    assert difference(Stat(math.inf), stat(0.5), accuracy).clear is None


def test_equal_scores_of_every_seed_are_no_difference():
    same = difference(stat([0.9, 0.8]), stat([0.9, 0.8]), measure("accuracy"))
    assert same.clear is False
    shifted = difference(stat([0.3, 0.4]), stat([0.1 + 0.2, 0.4]), measure("accuracy"))
    assert shifted.clear is False


def test_less_is_better_where_it_is():
    fewer = difference(stat([0.1, 0.1, 0.11]), stat([0.5, 0.5, 0.52]), measure("nll"))
    assert fewer.word(measure("nll")) == "better"
    assert fewer.word(measure("accuracy")) == "worse"
    assert fewer.word(measure("something new")) == ""


@pytest.mark.parametrize(("key", "label", "better"), [
    ("ndcg@10", "nDCG@10", "more"), ("ndcg@10 asymmetric", "nDCG@10, documents of the teacher", "more"),
    ("cranfield: mrr", "MRR (cranfield)", "more"), ("a: b: mrr asymmetric", "MRR, documents of the teacher (a: b)", "more"),
    ("cranfield: other", "Cranfield: other", ""),
])  # fmt: skip
def test_scores_on_a_bench_are_named_by_it(key, label, better):
    found = measure(key)
    assert (found.key, found.label, found.better) == (key, label, better)


def test_a_task_without_a_baseline_is_not_asked_for_one():
    models = [one("teacher", [0.82], "sts: spearman"), one("student", [0.77], "sts: spearman")]
    assert verdict(record(*models, **{"learns alone": False})).endswith("0.820 (6 % less) (one seed).")
    assert "not trained alone" in verdict(record(*models))
