import math

import numpy as np
import pytest
import torch

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.evaluation.calibration import ece, reliability


def test_bins_hold_their_upper_edge():
    chances = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.875, 0.125], [1.0, 0.0], [0.25, 0.75]])
    labels = torch.tensor([0, 1, 0, 0, -100])
    table = reliability(chances, labels, bins=4)
    assert [row["count"] for row in table] == [0, 1, 1, 2]
    assert [(row["lower"], row["upper"]) for row in table] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert table[0]["confidence"] is None
    assert table[0]["accuracy"] is None
    assert table[2]["accuracy"] == 0
    assert table[3]["confidence"] == 0.9375
    assert table[3]["accuracy"] == 1


def test_ece_sums_the_bins():
    generator = torch.Generator().manual_seed(0)
    chances = torch.randn(300, 4, generator=generator, dtype=torch.float64).softmax(-1)
    labels = torch.randint(0, 4, (300,), generator=generator)
    for bins in (1, 10, 15):
        table = [row for row in reliability(chances, labels, bins) if row["count"]]
        total = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in table) / 300
        assert sum(row["count"] for row in table) == 300
        assert ece(chances, labels, bins) == pytest.approx(total, abs=1e-14)
    assert math.isnan(ece(chances, torch.full((300,), -100)))


def test_one_probability_each_is_class_one():
    chances, labels = torch.tensor([0.9, 0.3, 0.6]), torch.tensor([1, 0, 0])
    assert reliability(chances, labels) == reliability(torch.stack([1 - chances, chances], -1), labels)


def test_logits_are_refused():
    with pytest.raises(ArgumentError, match="softmax"):
        reliability(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ArgumentError, match="bins=0"):
        reliability(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), bins=0)
    with pytest.raises(DataError, match="expected"):
        reliability(torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]))


@pytest.mark.shared_data
def test_golden_ece():
    try:
        golden = np.load(find_golden("ece__b10.npz"))
    except Exception as error:
        pytest.skip(str(error))
    # one column of confidence in class 1; "correct" says whether class 1 was right, so bin by that column itself
    confidence, correct = golden["in_confidence"], golden["in_correct"]
    classes = 1 + int(np.ceil(1 / confidence.min()))
    chances = np.repeat((1 - confidence)[:, None] / (classes - 1), classes, axis=1)
    chances[:, 0] = confidence  # the top class is class 0 by construction
    labels = np.where(correct > 0, 0, 1)
    assert ece(chances, labels, bins=10) == pytest.approx(float(golden["out_ece"]), abs=1e-12)
