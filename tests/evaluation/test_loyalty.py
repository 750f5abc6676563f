import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.evaluation.fidelity import CLOSENESS
from limbeck.evaluation.loyalty import (
    agreement,
    confusion,
    label_agreement,
    probability_loyalty,
    regression_loyalty,
)


def logits(seed, n=40, classes=4, scale=2.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def golden(name):
    try:
        return np.load(find_golden(name))
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("base", [2.0, math.e])
def test_probability_loyalty_is_scipy(base):
    student, teacher = logits(0).softmax(-1), logits(1).softmax(-1)
    expected = np.mean([1 - jensenshannon(p, q, base) for p, q in zip(student.numpy(), teacher.numpy())])
    assert probability_loyalty(student, teacher, base) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 50), scale=st.sampled_from([0.01, 1.0, 30.0, 400.0]))
def test_loyalty_is_one_exactly_at_equal_rows_symmetric_and_in_range(seed, classes, scale):
    student, teacher = logits(seed, 8, classes, scale), logits(seed + 1, 8, classes, scale)
    p, q = student.softmax(-1), teacher.softmax(-1)
    assert probability_loyalty(p, p) == 1.0
    assert agreement(student, student)["probability_loyalty"] == 1.0
    value = probability_loyalty(p, q)
    assert -1e-12 <= value < 1
    assert value == pytest.approx(probability_loyalty(q, p), abs=1e-12)


def test_loyalty_at_its_ends():
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert probability_loyalty(p, q) == 0.0
    assert probability_loyalty(p, q, base=math.e) == pytest.approx(1 - math.sqrt(math.log(2)))
    assert probability_loyalty(p, p) == 1.0
    near = torch.tensor([[0.5 + 1e-9, 0.5 - 1e-9]], dtype=torch.float64)
    distance = 1 - probability_loyalty(near, torch.tensor([[0.5, 0.5]]))
    assert distance == pytest.approx(1e-9 / math.sqrt(2 * math.log(2)), rel=1e-3, abs=0)


@pytest.mark.shared_data
def test_golden_loyalty():
    data = golden("loyalty__c4.npz")
    student, teacher = data["in_student"], data["in_teacher"]
    assert label_agreement(student, teacher) == pytest.approx(float(data["out_label_loyalty"]), abs=1e-15)
    assert probability_loyalty(student, teacher) == pytest.approx(
        float(data["out_probability_loyalty_bits"]), abs=1e-12
    )
    nats = probability_loyalty(student, teacher, base=math.e)
    assert nats == pytest.approx(float(data["out_probability_loyalty_nats"]), abs=1e-12)


@pytest.mark.shared_data
def test_golden_regression_loyalty():
    data = golden("regression_loyalty__c4.npz")
    expected = float(data["out_pearson"])
    assert regression_loyalty(data["in_student"], data["in_teacher"]) == pytest.approx(expected, abs=1e-12)


def test_regression_loyalty_is_pearson():
    one, two = logits(0, 30, 2), logits(1, 30, 2)
    expected = np.mean([np.corrcoef(one[:, i], two[:, i])[0, 1] for i in range(2)])
    assert regression_loyalty(one, two) == pytest.approx(expected, abs=1e-12)
    assert regression_loyalty(one[:, 0], 3 * one[:, :1] + 5) == pytest.approx(1.0)
    assert regression_loyalty(one[:, 0], -one[:, 0]) == pytest.approx(-1.0)
    assert math.isnan(regression_loyalty(torch.ones(5), torch.arange(5.0)))


def test_agreement_is_split_by_whether_the_teacher_is_right():
    student, teacher = logits(0), logits(1)
    labels = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(2))
    labels[:5] = -100
    result = agreement(student, teacher, labels)
    right = (teacher.argmax(-1) == labels) & (labels != -100)
    wrong = (teacher.argmax(-1) != labels) & (labels != -100)
    assert result["label_agreement"] == label_agreement(student, teacher)
    assert result["label_agreement_teacher_right"] == label_agreement(student[right], teacher[right])
    assert result["label_agreement_teacher_wrong"] == label_agreement(student[wrong], teacher[wrong])
    assert result["probability_loyalty_teacher_right"] == pytest.approx(
        probability_loyalty(student[right].softmax(-1), teacher[right].softmax(-1)), abs=1e-14)  # fmt: skip
    assert result["probability_loyalty_teacher_wrong"] == pytest.approx(
        probability_loyalty(student[wrong].softmax(-1), teacher[wrong].softmax(-1)), abs=1e-14)  # fmt: skip
    assert set(agreement(student, teacher)) == {"label_agreement", "probability_loyalty", *CLOSENESS}
    never_wrong = agreement(student, teacher, teacher.argmax(-1))
    assert not [name for name in never_wrong if name.endswith("wrong")]


def test_one_logit_each_agrees_as_two_columns():
    student, teacher = logits(0, classes=2), logits(1, classes=2)
    one = agreement(student[:, 1] - student[:, 0], (teacher[:, 1] - teacher[:, 0]).unsqueeze(-1))
    assert one == pytest.approx(agreement(student, teacher), abs=1e-12)


def test_confusion_counts_pairs():
    table = confusion(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    from sklearn.metrics import confusion_matrix

    student, teacher = logits(0).argmax(-1), logits(1).argmax(-1)
    assert confusion(student, teacher, 4).tolist() == confusion_matrix(student, teacher, labels=range(4)).tolist()


def test_errors():
    with pytest.raises(ModelError, match="same classes"):
        agreement(logits(0), logits(0, classes=3))
    with pytest.raises(ModelError, match=r"\[n, classes\]"):
        probability_loyalty(torch.ones(3, 2) / 2, torch.ones(2, 2) / 2)
    with pytest.raises(ArgumentError, match="for logits use agreement"):
        probability_loyalty(logits(0), logits(1))
    with pytest.raises(ArgumentError, match="base"):
        agreement(logits(0), logits(1), base=1)
    with pytest.raises(ArgumentError, match="3 labels for 40 rows"):
        agreement(logits(0), logits(1), torch.zeros(3))
    with pytest.raises(ArgumentError, match="expects 0 to 1"):
        confusion([0, 2], [0, 1], 2)
    with pytest.raises(ArgumentError, match="as many"):
        confusion([0, 2], [0], 3)
    broken = logits(0)
    broken[0, 0] = torch.nan
    with pytest.raises(ModelError, match="1 of 40 rows"):
        agreement(broken, logits(1))
