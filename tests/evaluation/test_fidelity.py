"""How close a student is to its teacher: against loops, limits, and the golden case."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.evaluation.fidelity import Fidelity, fidelity
from limbeck.evaluation.quality import classification_scores


def logits(seed, n=60, classes=4, scale=2.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(student, teacher, labels):
    """The same in plain Python, row by row."""
    sums = {"kl_to_teacher": 0.0, "js_to_teacher": 0.0, "tv_to_teacher": 0.0}
    shares = {}

    def count(name, happened):
        shares.setdefault(name, []).append(bool(happened))

    for z, w, y in zip(student.tolist(), teacher.tolist(), labels.tolist()):
        q = [math.exp(a) / sum(map(math.exp, z)) for a in z]
        p = [math.exp(a) / sum(map(math.exp, w)) for a in w]
        m = [(a + b) / 2 for a, b in zip(p, q)]
        sums["kl_to_teacher"] += sum(a * math.log(a / b) for a, b in zip(p, q))
        sums["js_to_teacher"] += sum(
            a * math.log(a / c) / 2 + b * math.log(b / c) / 2 for a, b, c in zip(p, q, m, strict=True)
        )
        sums["tv_to_teacher"] += sum(abs(a - b) for a, b in zip(p, q)) / 2
        ours = sorted(range(len(z)), key=lambda i: -z[i])
        theirs = sorted(range(len(w)), key=lambda i: -w[i])
        same = ours[0] == theirs[0]
        count("label_agreement", same)
        if y == -100:
            continue
        if theirs[0] == y:
            count("label_agreement_teacher_right", same)
            if ours[0] == y:
                count("second_choice_agreement", ours[1] == theirs[1])
        else:
            count("label_agreement_teacher_wrong", same)
            count("accuracy_teacher_wrong", ours[0] == y)
    means = {name: total / len(student) for name, total in sums.items()}
    return means | {name: sum(values) / len(values) for name, values in shares.items()}


def test_against_loops():
    student, teacher = logits(0), logits(1)
    labels = torch.where(torch.rand(60) < 0.5, teacher.argmax(-1), torch.arange(60) % 4)
    labels[:5] = -100
    assert fidelity(student, teacher, labels) == pytest.approx(by_loops(student, teacher, labels), rel=1e-12)


def test_blocks_add_up_and_every_axis_but_the_last_is_rows():
    student, teacher, labels = logits(2), logits(3), torch.arange(60) % 4
    whole, found = fidelity(student, teacher, labels), Fidelity()
    for rows in torch.arange(60).split(7):
        found.add(student[rows].log_softmax(-1), teacher[rows].log_softmax(-1), labels[rows])
    assert found.result() == pytest.approx(whole, rel=1e-12)
    assert fidelity(student.view(6, 10, 4), teacher.view(6, 10, 4), labels.view(6, 10)) == whole


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(3, 30), scale=st.sampled_from([0.1, 3.0, 60.0]))
def test_bounds_symmetry_and_equality(seed, classes, scale):
    student, teacher = logits(seed, 9, classes, scale), logits(seed + 1, 9, classes, scale)
    one, other = fidelity(student, teacher), fidelity(teacher, student)
    assert 0 <= one["js_to_teacher"] <= math.log(2) + 1e-12
    assert 0 <= one["tv_to_teacher"] <= 1 + 1e-12
    assert one["kl_to_teacher"] >= 2 * one["tv_to_teacher"] ** 2 - 1e-9  # Pinsker, and Jensen for the mean
    assert one["js_to_teacher"] == pytest.approx(other["js_to_teacher"], abs=1e-12)
    same = fidelity(student, student, student.argmax(-1))
    assert [same[name] for name in ("kl_to_teacher", "js_to_teacher", "tv_to_teacher")] == [0, 0, 0]
    assert same["label_agreement"] == same["label_agreement_teacher_right"] == same["second_choice_agreement"] == 1
    assert "label_agreement_teacher_wrong" not in same  # the teacher makes no error
    assert "accuracy_teacher_wrong" not in same


def test_two_accurate_models_agree_and_only_the_second_choice_tells_them_apart():
    labels = torch.arange(30) % 3
    right = 6.0 * torch.nn.functional.one_hot(labels, 3).double()
    teacher = right + torch.nn.functional.one_hot((labels + 1) % 3, 3)
    student = right + torch.nn.functional.one_hot((labels + 2) % 3, 3)
    found = fidelity(student, teacher, labels)
    assert found["label_agreement"] == 1
    assert found["second_choice_agreement"] == 0


def test_of_two_classes_there_is_no_second_choice():
    found = fidelity(logits(0, classes=2), logits(1, classes=2), torch.arange(60) % 2)
    assert "second_choice_agreement" not in found
    assert "accuracy_teacher_wrong" in found


def test_a_class_that_is_cut_off_is_no_nan():
    teacher = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert fidelity(torch.zeros(1, 3), teacher)["kl_to_teacher"] > 0
    assert fidelity(teacher, teacher)["kl_to_teacher"] == 0
    assert fidelity(teacher, torch.zeros(1, 3))["kl_to_teacher"] == math.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="same samples and the same classes"):
        fidelity(logits(0), logits(0, classes=3))
    with pytest.raises(ArgumentError, match="3 labels for 60 rows"):
        fidelity(logits(0), logits(1), torch.zeros(3))


@pytest.mark.shared_data
def test_golden():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    case = np.load(
        folder / json.loads((folder / "index.json").read_text())["language-models"]["fidelity-metrics"]["file"]
    )
    student, teacher, labels = (case[f"in_{name}"] for name in ("student_logits", "teacher_logits", "labels"))
    found = fidelity(student, teacher, labels)
    for ours, theirs in (("label_agreement", "top1_agreement"), ("kl_to_teacher", "kl"), ("js_to_teacher", "jsd"),
                         ("tv_to_teacher", "tvd")):  # fmt: skip
        assert found[ours] == pytest.approx(float(case[f"out_{theirs}"]), rel=1e-12)
    for logits, name in ((student, "student_acc"), (teacher, "teacher_acc")):
        assert classification_scores(logits, labels)["accuracy"] == pytest.approx(float(case[f"out_{name}"]), rel=1e-12)
